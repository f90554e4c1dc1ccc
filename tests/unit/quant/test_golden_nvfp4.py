"""NVFP4 of torchao, HiFloat4 and fake_quant_ops, as stored in `golden`."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from bit_exact import codes_of
from golden import Entry, entries_of, id_of
from looped import looped

from harness.formats.base import NumberFormat
from harness.formats.codebook import Codebook
from harness.formats.minifloat import E2M1, E4M3, E5M2
from harness.quant.granularity import Granularity
from harness.quant.schemes.block_scaled import BlockScaled
from harness.quant.schemes.nvfp4 import NVFP4Scale

MAGNITUDES = (
    *(0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0, 1.25, 1.5, 1.75, 2.0),
    *(2.5, 3.0, 3.5, 4.0, 5.0, 6.0),
)
"""Of fake_quant_ops' `nvfp4_e2m1`, which has two mantissa bits (formats.md, section 3.5)."""
PER_TENSOR: dict[str, NumberFormat] = {
    "nvfp8_e4m3": E4M3,
    "nvfp8_e5m2": E5M2,
    "nvfp4_e2m1": Codebook(
        name="fqo", levels=(*(-m for m in MAGNITUDES), 0.0, *MAGNITUDES), ties="away"
    ),
}


def format_of(parts: list[str]) -> BlockScaled:
    """torchao multiplies by reciprocals without subnormal scales; others divide with them."""
    if parts[0] == "torchao":
        scale = NVFP4Scale(levels=1 if "1level" in parts[1] else 2)
    else:
        scale = NVFP4Scale(levels=1, subnormal=True, arithmetic="divide")
    return BlockScaled(element=E2M1, granularity=Granularity(block=(1, 16)), scale=scale)


def found(entry: Entry) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Return the project's results by role, and the values."""
    quantized = codes_of(entry.x, format_of(entry.parts))
    planes, values = quantized.scales.planes, quantized.dequantize()
    roles = {"codes": quantized.codes, "scale_e4m3": planes[0].values, "dq": values}
    roles |= {"per_tensor_scale": planes[1].values} if len(planes) > 1 else {}
    return {role: roles[role] for role in entry.stored}, values


def no_block_scales(
    entry: Entry, found: dict[str, torch.Tensor], differing: dict[str, Any]
) -> None:
    """One scale for the tensor, max / (absmax + 2^-23): the element under it gives the values."""
    element = PER_TENSOR[entry.parts[1]]
    scale = element.max / (entry.x.abs().max() + 2.0**-23)
    expected, theirs = element.round(entry.x * scale) / scale, entry.stored["dq"].float()
    # It keeps results finite, and rounds once more huge numbers and elements of its own.
    expected = expected.clamp(-torch.finfo().max, torch.finfo().max)
    error = (expected.double() - theirs.double()).abs()
    again = element.name == "fqo" or entry.parts[2] == "huge"
    bound = 2.0**-22 * theirs.double().abs() if again else torch.zeros(())
    assert ((error <= bound) | (expected.isnan() & theirs.isnan())).all()


def zero_scale_is_not_zero(
    entry: Entry, found: dict[str, torch.Tensor], differing: dict[str, Any]
) -> None:
    """The scale is s + 2^-60: blocks of scale 0 come back as garbage of that size."""
    scales = codes_of(entry.x, format_of(entry.parts)).scales.planes[0].values
    zero = (scales == 0).repeat_interleave(16, -1)
    assert not (differing["dq"] & ~zero).any()
    assert entry.stored["dq"].float()[zero].abs().max() <= 6 * 2.0**-60


def infinity_is_not_caught(
    entry: Entry, found: dict[str, torch.Tensor], differing: dict[str, Any]
) -> None:
    """Blocks with infinity have NaN where the project has 6 * 448 or 0."""
    infinite = entry.x.unfold(-1, 16, 16).isinf().any(-1).repeat_interleave(16, -1)
    assert not (differing["dq"] & ~infinite).any()
    assert entry.stored["dq"].float()[differing["dq"]].isnan().all()
    ours = found["dq"][differing["dq"]].abs()
    assert ((ours == 6 * 448) | (ours == 0)).all()


KNOWN_DIFFERENT: dict[str, tuple[str, Callable[..., None]]] = {
    "fqo/nvfp*": ("not NVFP4: one scale for the tensor, other grids", no_block_scales),
    "fqo_cy/nvf4/special": ("blocks with infinity are NaN", infinity_is_not_caught),
    "fqo_cy/nvf4/t*": ("adds 2^-60 to scales", zero_scale_is_not_zero),  # ties, tiny
    "fqo_cy/nvf4/edges": ("adds 2^-60 to scales", zero_scale_is_not_zero),
}


@looped("entry", partial(entries_of, "test_golden_nvfp4"), ids=id_of)
def test_stored_result_is_reproduced_or_listed(entry: Entry) -> None:
    if entry.parts[0] == "torchao":
        packed = entry.stored["codes"]
        entry.stored["codes"] = torch.stack([packed & 0xF, packed >> 4], -1).flatten(-2)
        # Decoded by torch, since NaN has two codes.
        stored = entry.stored["scale_e4m3"].view(torch.float8_e4m3fn)
        entry.stored["scale_e4m3"] = stored.float()
    roles, values = found(entry)
    entry.check(roles, values, KNOWN_DIFFERENT)
