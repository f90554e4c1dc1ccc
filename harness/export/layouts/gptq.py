"""The GPTQ layout: INT2, INT4 or INT8 weights, per-channel or group-wise.

With p = 32 / bits codes in an int32 word, the first in the lowest bits, and codes counted from 0:

    qweight  int32   [K / p, N]     code of weight n, k:
                                    (qweight[k // p, n] >> bits * (k % p)) & (2^bits - 1)
    scales   float16 [K / g, N]
    qzeros   int32   [K / g, N / p] the zero point minus 1, packed along N
    g_idx    int32   [K]            the group of each input: k // g

    w[n, k] = (code - (qzeros + 1)) * scales

The 1 is that of version 1 of the layout (`checkpoint_format: gptq`). A zero point of 0 would be
stored as -1, which kernels read differently. Where all codes of a group allow it, codes and zero
point are moved up by one, which changes no weight. Elsewhere such a group is an error.

The layout does not depend on the algorithm GPTQ. It takes the codes and scales of any recipe.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from harness import __version__
from harness.backends.layer import LayerRule, QuantizedLayer
from harness.errors import UnsupportedRecipe
from harness.export.layouts.layout import (
    Contents,
    Integers,
    Packed,
    check_whole_groups,
    integer_format,
    integers,
    patterns,
    relative_error,
)
from harness.models.checkpoints.methods.codes import WORD_BITS
from harness.quant.schemes.affine import Affine

WIDTHS = (2, 4, 8)
"""Bits of a code. Other widths would cross the border of a word."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Gptq:
    """The GPTQ layout; the module docstring has its tensors."""

    name: ClassVar[str] = "gptq"
    holds: ClassVar[str] = (
        "one format for all layers: INT2, INT4 or INT8, with or without zero points, per-channel "
        "or group-wise, activations unquantized"
    )

    def unsupported(self, rules: Mapping[str, LayerRule]) -> str | None:
        """Return the first rule that does not fit, and why; or that there are several formats."""
        for name, rule in rules.items():
            fmt = integer_format(rule.weight)
            if rule.input is not None:
                return f"rule {name} rounds activations to {rule.input.name}"
            has = f"rule {name} has {rule.weight.name}"
            if fmt is None or fmt.element.bits not in WIDTHS:
                return has
            if fmt.granularity.flat or fmt.granularity.block[0] != 1:
                return f"{has}, which is neither per-channel nor group-wise"
        kinds = {tuple(_quantization(rule).items()) for rule in rules.values()}
        return f"the rules have {len(kinds)} different formats" if len(kinds) > 1 else None

    def unsupported_embedding(self, layer: QuantizedLayer) -> str | None:  # noqa: ARG002
        """Return the reason, which is the same for every format."""
        return "its readers know linear layers alone"

    def pack(self, layer: QuantizedLayer) -> Packed:
        """Return codes, zero points and scales, transposed and packed."""
        found = integers(layer)
        _check_divisible(layer, WORD_BITS // found.bits)
        codes, zeros = _without_zeros_of_0(layer, found)
        # The scale of a block of zeros has no effect, and is often too small for float16: store 1.
        used = (_by_group(codes, zeros) != zeros[..., None]).any(-1)
        exact = found.scales.masked_fill(~used, 1.0)
        scales = exact.to(torch.float16)
        error = relative_error(scales, exact)
        if error >= 1:
            raise UnsupportedRecipe(
                f"scales must be within float16 in the GPTQ layout, got {layer.name} with scales "
                f"from {float(exact.min()):.3g} to {float(exact.max()):.3g}; choose "
                "layout=compressed_tensors"
            )
        columns, groups = codes.shape[1], scales.shape[1]
        g_idx = torch.arange(columns, dtype=torch.int32) // (columns // groups)
        tensors = {
            "qweight": _packed_rows(codes.T, found.bits),
            "qzeros": _packed_rows(zeros - 1, found.bits).T.contiguous(),
            "scales": scales.T.contiguous(),
            "g_idx": g_idx.int(),
        }
        return Packed(tensors=tensors, scale_error=error)

    def config(self, contents: Contents) -> dict[str, Any]:
        """Return the settings as GPTQModel writes them; `dynamic` lists decoder layers left out."""
        rule = next(iter(contents.quantized.values()))
        kept = [path for path in contents.kept if path != contents.head]
        skipped = patterns(kept, contents.quantized.keys())
        return {
            "quant_method": "gptq",
            "checkpoint_format": "gptq",
            **_quantization(rule),
            "desc_act": False,
            "static_groups": False,
            "true_sequential": False,
            "lm_head": contents.head in contents.quantized,
            "pack_dtype": "int32",
            **({"dynamic": {f"-:{text}": {} for text in skipped}} if skipped else {}),
            "meta": {"quantizer": [f"quant-harness:{__version__}"]},
        }

    def files(self, config: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """Return the file with the same settings that old readers look for."""
        return {"quantize_config.json": config}


def _quantization(rule: LayerRule) -> dict[str, Any]:
    """Return the settings that distinguish GPTQ formats."""
    fmt = integer_format(rule.weight)
    assert fmt is not None  # noqa: S101 - `unsupported` has checked it
    return {
        "bits": fmt.element.bits,
        "group_size": fmt.granularity.block[1],
        "sym": not isinstance(fmt, Affine),
    }


def _check_divisible(layer: QuantizedLayer, num_codes: int) -> None:
    """Raise UnsupportedRecipe for a shape that does not fill whole words of `num_codes` codes."""
    check_whole_groups(layer)
    rows, columns = layer.weight.shape
    for size, what in ((columns, "inputs"), (rows, "outputs")):
        if size % num_codes:
            raise UnsupportedRecipe(
                f"{what} must be a multiple of {num_codes} in the GPTQ layout of "
                f"{WORD_BITS // num_codes} bits, got {size} in {layer.name}; add the layer to "
                "quant.skip, or choose layout=compressed_tensors"
            )


def _without_zeros_of_0(layer: QuantizedLayer, found: Integers) -> tuple[Tensor, Tensor]:
    """Return codes `[N, K]` and zero points `[N, G]` without a zero point of 0.

    Raises:
        UnsupportedRecipe: A group with a zero point of 0 has a code that cannot be moved up.
    """
    if found.zeros is None:
        return found.codes, torch.full_like(found.scales, 2 ** (found.bits - 1)).short()
    blocks = _by_group(found.codes, found.zeros)
    moved = (found.zeros == 0).short()
    if int((blocks.amax(-1) + moved).max()) >= 2**found.bits:
        raise UnsupportedRecipe(
            f"zero points must be at least 1 in the GPTQ layout, got 0 in {int(moved.sum())} "
            f"groups of {layer.name}, whose weights are all positive, or nearly all; choose "
            "layout=compressed_tensors, or a format without zero points"
        )
    return (blocks + moved[..., None]).flatten(1), found.zeros + moved


def _by_group(codes: Tensor, zeros: Tensor) -> Tensor:
    """View codes `[N, K]` as groups `[N, G, K / G]`, beside zero points `[N, G]`."""
    return codes.reshape(*zeros.shape, -1)


def _packed_rows(values: Tensor, bits: int) -> Tensor:
    """Return values `[A, B]` as words `[A / p, B]`, the first of each p rows in the lowest bits."""
    words = values.int().reshape(-1, WORD_BITS // bits, values.shape[1])
    shifts = torch.arange(0, WORD_BITS, bits, dtype=torch.int32)[:, None]
    return (words << shifts).sum(1, dtype=torch.int32).contiguous()
