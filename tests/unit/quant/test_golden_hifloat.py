"""HiF8, HiF4 and their relatives: every implementation stored in `golden`."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from bit_exact import codes_of, values_of
from golden import Entry, entries_of, id_of
from looped import looped

from harness.formats.hif8 import HiF8
from harness.quant.schemes.hif4 import HiF
from harness.quant.schemes.hif4_v12 import HiFv12
from harness.quant.schemes.unscaled import Unscaled
from harness.quant.tensor import TensorFormat

SMALLEST, OVERFLOW = 2.0**-22, 40960.0
SATURATING = ("fqo_core", "fqo_cy", "fqo_scaled")


def theirs(entry: Entry) -> torch.Tensor:
    return next(iter(entry.stored.values())).float()


def never_underflows(
    entry: Entry, found: dict[str, torch.Tensor], differing: dict[str, Any]
) -> None:
    """Numbers below 2^-23 that are not 0 become 2^-22; all else is equal."""
    where = differing["values"]
    assert torch.equal(where, (entry.x.abs() < SMALLEST / 2) & (entry.x != 0))
    assert torch.equal(theirs(entry)[where], (entry.x.sign() * SMALLEST)[where])


def scaled_to_8(entry: Entry, found: dict[str, torch.Tensor], differing: dict[str, Any]) -> None:
    """The same, after a scale that maps absmax to 8, in bf16."""
    scale = 8 / (entry.x.abs().max() + 2.0**-23)
    units = entry.x * scale
    rounded = HiF8(overflow="saturate").round(units)
    tiny = (units.abs() < SMALLEST / 2) & (units != 0)
    rounded = torch.where(tiny, units.sign() * SMALLEST, rounded)
    expected = (rounded.bfloat16() / scale).bfloat16().float()
    torch.testing.assert_close(theirs(entry), expected, rtol=0, atol=0, equal_nan=True)


def other_ends(entry: Entry, found: dict[str, torch.Tensor], differing: dict[str, Any]) -> None:
    """0 up to 1.5 * 2^-22, 40960 for all numbers beyond, no bound for negative ones; else equal."""
    where, x = differing["values"], entry.x
    small, large = x.abs() <= 1.5 * SMALLEST, x.abs() >= OVERFLOW
    assert not (where & ~small & ~large).any()
    assert (theirs(entry)[small] == 0).all()
    assert (theirs(entry)[large & (x > 0)] == OVERFLOW).all()


def hybrid_rounding(
    entry: Entry, found: dict[str, torch.Tensor], differing: dict[str, Any]
) -> None:
    """Derived, not run: equal for |E| < 4; else a neighbor of x, at least the one away from 0."""
    where, x = differing["values"], entry.x.abs().double()
    exponent = torch.frexp(entry.x).exponent - 1
    assert not (where & (exponent.abs() < 4)).any()
    grid = HiF8().values().double()
    grid = torch.cat([grid[grid >= 0], torch.tensor([torch.inf])])
    above = torch.searchsorted(grid, x[where], right=True)
    got = theirs(entry)[where].abs().double()
    assert ((got == grid[above]) | (got == grid[above - 1])).all()


def logarithm_rounds_up(
    entry: Entry, found: dict[str, torch.Tensor], differing: dict[str, Any]
) -> None:
    """float32 log2 and v + 0.5 round up, both only at the float just below a power of two."""

    def below(values: torch.Tensor) -> torch.Tensor:
        return torch.frexp(values).mantissa == 1 - 2.0**-24

    maxima = entry.x.unfold(-1, 4, 4).abs().amax(-1) + 2.0**-45
    groups = below(maxima).unfold(-1, 16, 16).any(-1).repeat_interleave(64, -1)
    assert not (differing["dq"] & ~groups & ~below(entry.x.abs())).any()
    assert differing["dq"].sum() < 64


KNOWN_DIFFERENT: dict[str, tuple[str, Callable[..., None]]] = {
    "fqo_core/ties": ("has no underflow to 0", never_underflows),
    "fqo_core/edges": ("has no underflow to 0", never_underflows),
    "fqo_core/tiny": ("has no underflow to 0", never_underflows),
    "fqo_scaled/*": ("another format: HiF8 under a scale that maps absmax to 8", scaled_to_8),
    "fqo_dml/ties": ("other overflow and underflow", other_ends),
    "fqo_dml/edges": ("other overflow and underflow", other_ends),
    "fqo_dml/huge": ("other overflow and underflow", other_ends),
    "derived_HR/[!t]*": ("hybrid rounding, which the project does not have", hybrid_rounding),
    "derived_HR/ties": ("hybrid rounding, which the project does not have", hybrid_rounding),
    "fqo_cy/hifx?_v12/edges": ("float32 log2, and floor(v + 0.5)", logarithm_rounds_up),
}


@looped("entry", partial(entries_of, "test_golden_hifloat"), ids=id_of)
def test_stored_result_is_reproduced_or_listed(entry: Entry) -> None:
    roles, values = found(entry)
    entry.check(roles, values, KNOWN_DIFFERENT)


def format_of(parts: list[str]) -> TensorFormat:
    if parts[1].startswith("hifx"):
        bits = int(parts[1][4])
        return HiFv12(bits=bits, saturate=False) if "v12" in parts[1] else HiF(bits=bits)
    return Unscaled(
        element=HiF8(
            overflow="saturate" if parts[0] in SATURATING else "infinity",
            rounding="nearest_even" if parts[0] == "fqo_dml" else "half_away",
        )
    )


def found(entry: Entry) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Return the project's results by role, and the values."""
    fmt = format_of(entry.parts)
    quantized = codes_of(entry.x, fmt)
    # Not by the codes: what `saturate: false` gives beyond the range has none.
    values = values_of(entry.x, fmt)
    roles = {"codes": quantized.codes, "values": values, "dq": values, "out_bf16_as_f32": values}
    if quantized.scales.planes:
        factor4, factor8, scale = (plane.values for plane in quantized.scales.planes)
        roles |= {"e6m2": scale, "lvl2": factor8 - 1, "lvl3": factor4 - 1}
    return {role: roles[role].view(stored.shape) for role, stored in entry.stored.items()}, values
