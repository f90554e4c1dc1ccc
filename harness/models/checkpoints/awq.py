"""Checkpoints in the GEMM layout of AWQ (Lin et al., "AWQ", 2023; AutoAWQ, llm-compressor's export to it), dequantized to float.

For a linear layer of K inputs and N outputs, quantized to 4 bits in groups of inputs:

    qweight [K, N / 8]   int32      codes of eight outputs a word, the lowest bits first, in the order 0, 2, 4, 6, 1, 3, 5, 7
    qzeros  [G, N / 8]   int32      zero points, in the same order
    scales  [G, N]       float16

    w[n, k] = (code[k, n] - zero[g, n]) * scale[g, n],    g = k // group_size

The search of AWQ is over by then: its scales of channels are folded into the weights and the layers before them. Where no layer could
take them (GELU), AutoAWQ keeps them as `act.scales`, which the float architecture has no place for: refused.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from harness.errors import ModelError
from harness.models.checkpoints.dequantized import Dequantized, read_packed
from harness.models.checkpoints.gptq import unpack
from harness.models.checkpoints.prequantized import Settings

PARTS = ("qweight", "qzeros", "scales")
BITS = 4
PLACES = (0, 4, 1, 5, 2, 6, 3, 7)
"""Where in a word the outputs 0, 1, ... 7 are: the inverse of the order above."""


def read(
    folder: Path,
    settings: Settings,
    dtype: torch.dtype,
    shape: PreTrainedModel,
) -> Dequantized:
    """Read a folder; see `Reader`."""
    _check_layout(folder, settings)
    group_size = int(settings.get("group_size", 128))
    return read_packed(
        folder,
        dtype,
        shape,
        layout="GEMM layout of AWQ",
        parts=PARTS,
        dequantize=lambda parts: dequantize(parts, group_size),
    )


def _check_layout(folder: Path, settings: Settings) -> None:
    """Raise ModelError for layouts that pack in other ways."""
    layout = str(settings.get("version") or settings.get("format") or "gemm").lower()
    bits = settings.get("bits", BITS)
    has_zeros = settings.get("zero_point", True)
    if (layout, bits, bool(has_zeros)) != ("gemm", BITS, True):
        raise ModelError(
            f"an AWQ checkpoint must have version gemm, {BITS} bits and zero points, got version {layout}, {bits} bits and "
            f"zero_point {has_zeros} in {folder}; convert it to gemm with AutoAWQ, or choose another checkpoint"
        )


def dequantize(parts: Mapping[str, Tensor], group_size: int) -> Tensor:
    """Return the float32 weight `[N, K]` of a layer; a group size of -1 is one group.

    Raises:
        ValueError: The tensors do not fit each other.
    """
    if lacking := [part for part in PARTS if part not in parts]:
        raise ValueError(f"no {', '.join(lacking)}")
    qweight, qzeros, scales = (parts[part] for part in PARTS)
    if qweight.dtype != torch.int32 or qzeros.dtype != torch.int32:
        raise ValueError(f"codes in {qweight.dtype} and {qzeros.dtype}, not in int32")
    codes_KN, zeros_GN = _in_order(qweight), _in_order(qzeros)
    num_inputs, num_outputs = codes_KN.shape
    size = group_size if group_size > 0 else num_inputs
    expected = -(-num_inputs // size), num_outputs
    if not zeros_GN.shape == scales.shape == expected:
        shapes = {part: tuple(tensor.shape) for part, tensor in parts.items()}
        raise ValueError(f"shapes that do not fit for groups of {size}: {shapes}")
    # Codes and zero points are unsigned integers; their difference is exact in float32.
    group = torch.arange(num_inputs) // size
    grid_KN = (codes_KN - zeros_GN[group]).float() * scales.float()[group]
    return grid_KN.T.contiguous()


def _in_order(words: Tensor) -> Tensor:
    """Return the numbers `[R, 8 W]` of words `[R, W]` in the order of outputs, int64."""
    numbers = unpack(words, BITS)
    return numbers.view(len(numbers), -1, len(PLACES))[:, :, PLACES].flatten(1)
