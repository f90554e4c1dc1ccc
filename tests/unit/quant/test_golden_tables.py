"""The value of every code, and the code of every bfloat16 number, as stored in `golden`."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from golden import Entry, entries_of, id_of
from looped import looped

from harness.formats.base import NumberFormat
from harness.formats.codebook import Codebook
from harness.formats.hif8 import HiF8
from harness.formats.minifloat import E2M1, E2M3, E3M2, E4M3, E5M2, Minifloat
from harness.formats.unsigned_float import E6M2, E8M0
from harness.quant.schemes.bnb4bit import dynamic_map
from harness.quant.schemes.hif4 import HiF

FORMATS: dict[str, NumberFormat] = {
    "e4m3fn": E4M3,
    "e4m3fn_torch213": E4M3,
    "e4m3fn_ml_dtypes": Minifloat(
        exponent_bits=4, mantissa_bits=3, specials="nan", overflow="special"
    ),
    "e5m2": E5M2,
    "e5m2_torch213": Minifloat(
        exponent_bits=5, mantissa_bits=2, specials="ieee", overflow="special"
    ),
    "e2m1": E2M1,
    "e2m3": E2M3,
    "e3m2": E3M2,
    "hif8": HiF8(),
    "e8m0": E8M0,
    "e6m2": E6M2,
    "bnb_nf4": Codebook(name="nf4"),
    "bnb_fp4": Codebook(name="fp4"),
    "bnb_dynamic_signed": dynamic_map(),
    "e1m2_s1p2": HiF(bits=4).element,
}
BF16 = (torch.arange(2**16, dtype=torch.int32) << 16).view(torch.float32)


def found(entry: Entry) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Return values of all codes, or codes of all numbers, and the numbers (NaN: any code)."""
    fmt = FORMATS[entry.parts[1].removesuffix("_torchao").removesuffix("_en_dtypes")]
    if entry.parts[0] == "values":
        codes = torch.arange(len(entry.stored["values"])).to(torch.uint8)
        return {"values": fmt.decode(codes)}, codes.float()
    values = fmt.round(BF16)
    return {"codes": fmt.encode(values)}, values


def sign_and_magnitude(
    entry: Entry, found: dict[str, torch.Tensor], differing: dict[str, Any]
) -> None:
    """The same 15 numbers; codes are sign and magnitude there, two's complement here."""
    ours, theirs = found["values"], entry.stored["values"].float()
    assert torch.equal(ours[:8], theirs[:8])
    assert torch.equal(theirs[8:], -theirs[:8])
    assert torch.equal(HiF(bits=4).element.values(), theirs.unique())


KNOWN_DIFFERENT: dict[str, tuple[str, Callable[..., None]]] = {
    "values/e1m2_s1p2": ("codes are sign and magnitude, here two's complement", sign_and_magnitude),
}


@looped("entry", partial(entries_of, "test_golden_tables"), ids=id_of)
def test_stored_table_is_reproduced(entry: Entry) -> None:
    roles, values = found(entry)
    entry.check(roles, values, KNOWN_DIFFERENT)
