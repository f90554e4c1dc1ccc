"""The GPTQ layout: weights of 2, 4 or 8 bits in rows or groups, as AutoGPTQ laid them out and GPTQModel, vLLM and SGLang read it.

With p = 32 / bits codes in an int32, the first in the lowest bits, and codes counted from 0:

    qweight  int32   [K / p, N]     code of weight n, k:  (qweight[k // p, n] >> bits * (k % p)) & (2^bits - 1)
    scales   float16 [K / g, N]
    qzeros   int32   [K / g, N / p] the zero point minus 1, packed along N
    g_idx    int32   [K]            the group of each input: k // g

    w[n, k] = (code - (qzeros + 1)) * scales

That 1 is version 1 of the layout (`checkpoint_format: gptq`). A zero point of 0 would be stored as -1, which kernels read
differently: groups that have one are moved up by one where a code is left, which changes no value, and refused elsewhere.

The layout is independent of the algorithm of that name: it needs codes and scales, whoever chose them.
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
    integer_format,
    integers,
    patterns,
    refuse_short_groups,
    relative_error,
)
from harness.quant.schemes.affine import Affine

WIDTHS = (2, 4, 8)
WORD = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Gptq:
    """The GPTQ layout; see the module docstring and `Layout`."""

    name: ClassVar[str] = "gptq"
    holds: ClassVar[str] = (
        "one format for all layers: INT2, INT4 or INT8, with or without zero points, in rows or groups, inputs in float"
    )

    def refusal(self, rules: Mapping[str, LayerRule]) -> str | None:
        """Name the first rule that does not fit, or say that there are several formats."""
        for name, rule in rules.items():
            fmt = integer_format(rule.weight)
            if rule.input is not None:
                return f"rule {name} rounds inputs to {rule.input.name}"
            if fmt is None or fmt.element.bits not in WIDTHS:
                return f"rule {name} has {rule.weight.name}"
            if fmt.granularity.flat or fmt.granularity.block[0] != 1:
                return f"rule {name} has {rule.weight.name}, whose blocks are not rows or groups"
        kinds = {tuple(_quantization(rule).items()) for rule in rules.values()}
        return f"the rules have {len(kinds)} different formats" if len(kinds) > 1 else None

    def refuses_embedding(self, layer: QuantizedLayer) -> str | None:  # noqa: ARG002
        """Return a reason: its readers know linear layers alone."""
        return "its readers know linear layers alone"

    def pack(self, layer: QuantizedLayer) -> Packed:
        """Return codes, zero points and scales, transposed and packed."""
        found = integers(layer)
        _refuse_shape(layer, WORD // found.bits)
        codes, zeros = _numbered_from_one(layer, found)
        # The scale of a block of zeros may be any, and is often too small for float16.
        used = (_by_group(codes, zeros) != zeros[..., None]).any(-1)
        exact = found.scales.masked_fill(~used, 1.0)
        scales = exact.to(torch.float16)
        error = relative_error(scales, exact)
        if error >= 1:
            raise UnsupportedRecipe(
                f"scales must be within float16 in the GPTQ layout, got {layer.name} with scales from "
                f"{float(exact.min()):.3g} to {float(exact.max()):.3g}; choose layout=compressed_tensors"
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
        """Return what GPTQModel writes; `dynamic` names the layers of the decoder that stay in float."""
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
        """Return the file that came before config.json had a place for it."""
        return {"quantize_config.json": config}


def _quantization(rule: LayerRule) -> dict[str, Any]:
    """Return what tells GPTQ formats apart."""
    fmt = integer_format(rule.weight)
    assert fmt is not None  # noqa: S101 - refusal has checked it
    return {
        "bits": fmt.element.bits,
        "group_size": fmt.granularity.block[1],
        "sym": not isinstance(fmt, Affine),
    }


def _refuse_shape(layer: QuantizedLayer, words: int) -> None:
    """Raise UnsupportedRecipe for what cannot be packed."""
    refuse_short_groups(layer)
    rows, columns = layer.weight.shape
    for size, what in ((columns, "inputs"), (rows, "outputs")):
        if size % words:
            raise UnsupportedRecipe(
                f"{what} must be a multiple of {words} in the GPTQ layout of {WORD // words} bits, got {size} in "
                f"{layer.name}; add the layer to quant.skip, or choose layout=compressed_tensors"
            )


def _numbered_from_one(layer: QuantizedLayer, found: Integers) -> tuple[Tensor, Tensor]:
    """Return codes and zero points `[N, K]` and `[N, G]` with no zero point of 0; see the module docstring."""
    if found.zeros is None:
        return found.codes, torch.full_like(found.scales, 2 ** (found.bits - 1)).short()
    blocks = _by_group(found.codes, found.zeros)
    moved = (found.zeros == 0).short()
    if int((blocks.amax(-1) + moved).max()) >= 2**found.bits:
        raise UnsupportedRecipe(
            f"zero points must be at least 1 in the GPTQ layout, got 0 in {int(moved.sum())} groups of {layer.name}, whose "
            "weights are all, or all but a little, positive; choose layout=compressed_tensors, or a format without zero points"
        )
    return (blocks + moved[..., None]).flatten(1), found.zeros + moved


def _by_group(codes: Tensor, zeros: Tensor) -> Tensor:
    """View codes `[N, K]` as `[N, G, K / G]` beside the zero points `[N, G]` of their groups."""
    return codes.reshape(*zeros.shape, -1)


def _packed_rows(values: Tensor, bits: int) -> Tensor:
    """Return `[A, B]` values as int32 `[A / p, B]`, the first of each p rows in the lowest bits."""
    words = values.int().reshape(-1, WORD // bits, values.shape[1])
    shifts = torch.arange(0, WORD, bits, dtype=torch.int32)[:, None]
    return (words << shifts).sum(1, dtype=torch.int32).contiguous()
