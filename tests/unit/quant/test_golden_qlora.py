"""bitsandbytes: NF4, FP4, double quantization, and its 8-bit formats, as stored in `golden`."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from bit_exact import codes_of
from golden import Entry, entries_of, id_of
from looped import looped

from harness.formats.codebook import Codebook
from harness.formats.integer import Integer
from harness.quant.granularity import Granularity
from harness.quant.schemes.block_scaled import BlockScaled
from harness.quant.schemes.bnb4bit import QLoRAScale, dynamic_map

BIN = 2 / 65535
"""Width of the bins in which bitsandbytes looks 8-bit codes up on a CPU, of units in [-1, 1]."""


def format_of(parts: list[str]) -> BlockScaled:
    name = parts[0]
    if name == "int8_vectorwise":
        return BlockScaled(element=Integer(bits=8), granularity=Granularity(block=(1, -1)))
    if name == "blockwise8_dynamic":
        flat = Granularity(block=(1, 256), flat=True)
        return BlockScaled(element=dynamic_map(), granularity=flat, scale=QLoRAScale())
    return BlockScaled(
        element=Codebook(name=name),
        granularity=Granularity(block=(1, int(parts[1][1:])), flat=True),
        scale=QLoRAScale(double_quantization=parts[2] == "nested"),
    )


def input_of(entry: Entry) -> torch.Tensor:
    if entry.parts[0] == "int8_vectorwise":
        return entry.x.half()
    plain = entry.parts[-2] not in ("bfloat16", "float16")
    return entry.x if plain else entry.x.to(getattr(torch, entry.parts[2]))


def found(entry: Entry) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Return the project's results by role, and the values."""
    x, fmt = input_of(entry), format_of(entry.parts)
    quantized = codes_of(x, fmt)
    values = quantized.dequantize()
    statistics = quantized.scales.planes[0].values.flatten()
    signed = isinstance(fmt.element, Integer)
    roles = {
        "codes": quantized.codes,
        "q": fmt.element.decode(quantized.codes) if signed else quantized.codes,
        "absmax": statistics,
        "row_absmax": statistics * 127,
        "absmax_dq": statistics,
        "dq": values.to(x.dtype),
    }
    if "absmax_q" in entry.stored:
        # The project keeps decoded statistics: the codes and levels follow from the stored mean.
        offset, exact = entry.stored["offset"], quantized.scales.unrounded
        assert exact is not None
        outer = (exact.values.flatten() - offset).view(-1, 256).abs().amax(-1)
        units = (statistics - offset).view(-1, 256) / outer[:, None]
        roles["absmax_q"] = dynamic_map().encode(dynamic_map().round(units)).flatten()
        roles |= {"absmax2": outer, "offset": exact.values.mean()}
    return {role: roles[role] for role in entry.stored}, values


def in_the_bin_of_a_midpoint(
    units: torch.Tensor, ours: torch.Tensor, theirs: torch.Tensor, most: float
) -> None:
    """Assert that few codes differ, by one, all where a midpoint lies in the bin of the number."""
    wrong = ours != theirs
    assert wrong.double().mean() < most
    assert ((ours.int() - theirs.int()).abs() <= 1).all()
    levels = dynamic_map()
    middle = (levels.decode(ours[wrong]) + levels.decode(theirs[wrong])) / 2
    assert ((units[wrong] - middle).abs() <= BIN / 2).all()


def statistics_by_bins(
    entry: Entry, found: dict[str, torch.Tensor], differing: dict[str, Any]
) -> None:
    """Packed elements, mean and scales are equal; codes of the statistics are looked up in bins."""
    assert differing.keys() == {"absmax_q", "absmax_dq"}
    exact = entry.x.view(-1, 64).abs().amax(-1)
    units = (exact - entry.stored["offset"]).view(-1, 256) / entry.stored["absmax2"][:, None]
    in_the_bin_of_a_midpoint(units.flatten(), found["absmax_q"], entry.stored["absmax_q"], 2 / 1024)
    equal = ~differing["absmax_q"]
    assert torch.equal(found["absmax_dq"][equal], entry.stored["absmax_dq"][equal])


def elements_by_bins(
    entry: Entry, found: dict[str, torch.Tensor], differing: dict[str, Any]
) -> None:
    """The scales are equal; the codes are looked up in bins."""
    assert "absmax" not in differing
    units = entry.x / entry.x.abs().amax(-1, keepdim=True)
    in_the_bin_of_a_midpoint(units, found["q"], entry.stored["q"].view(units.shape), 3e-3)
    equal = ~differing["q"]
    assert torch.equal(found["dq"][equal], entry.stored["dq"].float().view(units.shape)[equal])


def reciprocal_of_the_scale(
    entry: Entry, found: dict[str, torch.Tensor], differing: dict[str, Any]
) -> None:
    """x * (127 / absmax) and x / (absmax / 127) lie on both sides of one tie."""
    assert differing.keys() == {"q"}
    units = entry.x.half().double()
    units = units / units.abs().amax(-1, keepdim=True) * 127
    assert differing["q"].sum() == 1
    assert (units[differing["q"]].abs() % 1 - 0.5).abs().item() < 1e-5
    assert (found["q"] - entry.stored["q"]).abs().max() == 1


KNOWN_DIFFERENT: dict[str, tuple[str, Callable[..., None]]] = {
    "*/nested/*": ("8-bit codes come from 65536 bins, not the nearest level", statistics_by_bins),
    "blockwise8_dynamic/*": ("8-bit codes come from 65536 bins", elements_by_bins),
    "int8_vectorwise/*": ("multiplies by a reciprocal", reciprocal_of_the_scale),
}


@looped("entry", partial(entries_of, "test_golden_qlora"), ids=id_of)
def test_stored_result_is_reproduced_or_listed(entry: Entry) -> None:
    if "packed" in entry.stored:
        entry.stored["codes"] = unpacked(entry.stored.pop("packed"), entry.x.shape)
    if "dq" in entry.stored:
        entry.stored["dq"] = entry.stored["dq"].view(entry.x.shape)
    if "q" in entry.stored:
        entry.stored["q"] = entry.stored["q"].view(entry.x.shape)
    roles, values = found(entry)
    entry.check(roles, values, KNOWN_DIFFERENT)


def unpacked(packed: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Return the codes of packed bytes, high nibble first, without the one that fills the last."""
    codes = torch.stack([packed >> 4, packed & 0xF], -1).flatten()
    return codes[: shape.numel()].view(shape)
