"""Read checkpoints in the GEMM layout of AWQ (Lin et al., 2023; AutoAWQ, llm-compressor).

For a linear layer of K inputs and N outputs, quantized to 4 bits in G groups of inputs:

    qweight [K, N / 8]   int32      codes of eight outputs a word, lowest bits first, in the order
                                    0, 2, 4, 6, 1, 3, 5, 7
    qzeros  [G, N / 8]   int32      zero points, in the same order
    scales  [G, N]       float16

    w[n, k] = (code[k, n] - zero[g, n]) * scale[g, n],    g = k // group_size

AWQ folds its scales of channels into the weights and into the layer before. Where the layer before
is an activation function (GELU), AutoAWQ keeps these scales as `act.scales`. The unquantized
architecture has no place for them, so such a checkpoint is an error.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from harness.errors import ModelError
from harness.models.checkpoints.methods.codes import unpack_words
from harness.models.checkpoints.methods.dequantized import Dequantized
from harness.models.checkpoints.methods.packed_layers import (
    CODED,
    coded_parts,
    dequantize_groups,
    read_packed,
)
from harness.models.checkpoints.settings import Settings

AWQ_BITS = 4
PLACES_IN_WORD = (0, 4, 1, 5, 2, 6, 3, 7)
"""Place of outputs 0, 1, ... 7 in a word: the inverse of the order in the module docstring."""


def read_awq(
    folder: Path, settings: Settings, dtype: torch.dtype, shape: PreTrainedModel
) -> Dequantized:
    """Read a folder; see `Reader`."""
    _check_layout(folder, settings)
    group_size = int(settings.get("group_size", 128))
    return read_packed(
        folder,
        dtype,
        shape,
        layout="GEMM layout of AWQ",
        parts=CODED,
        dequantize=lambda parts: dequantize_awq(parts, group_size),
    )


def _check_layout(folder: Path, settings: Settings) -> None:
    """Raise ModelError for other layouts of AWQ, which pack codes in other ways."""
    layout = str(settings.get("version") or settings.get("format") or "gemm").lower()
    bits = settings.get("bits", AWQ_BITS)
    has_zeros = settings.get("zero_point", True)
    if (layout, bits, bool(has_zeros)) != ("gemm", AWQ_BITS, True):
        raise ModelError(
            f"an AWQ checkpoint must have version gemm, {AWQ_BITS} bits and zero points, got "
            f"version {layout}, {bits} bits and zero_point {has_zeros} in {folder}; convert it to "
            "gemm with AutoAWQ, or choose another checkpoint"
        )


def dequantize_awq(parts: Mapping[str, Tensor], group_size: int) -> Tensor:
    """Return the float32 weight `[N, K]` of a layer.

    Args:
        parts: Its tensors, by the names in the module docstring.
        group_size: Inputs of a group; -1 is one group.

    Raises:
        ValueError: The tensors do not fit each other.
    """
    qweight, qzeros, scales = coded_parts(parts)
    codes_KN, zeros_GN = _in_order(qweight), _in_order(qzeros)
    num_inputs, num_outputs = codes_KN.shape
    size = group_size if group_size > 0 else num_inputs
    expected = -(-num_inputs // size), num_outputs
    if not zeros_GN.shape == scales.shape == expected:
        shapes = {part: tuple(tensor.shape) for part, tensor in parts.items()}
        raise ValueError(f"shapes that do not fit for groups of {size}: {shapes}")
    return dequantize_groups(codes_KN, zeros_GN, scales, torch.arange(num_inputs) // size)


def _in_order(words: Tensor) -> Tensor:
    """Return the codes in words `[R, W]` in the order of outputs, int64 `[R, 8 W]`."""
    codes = unpack_words(words, AWQ_BITS)
    return codes.view(len(codes), -1, len(PLACES_IN_WORD))[:, :, PLACES_IN_WORD].flatten(1)
