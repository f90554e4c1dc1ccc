"""Checkpoints of the method `mxfp4`: GPT-OSS, whose experts are stored in MXFP4 (OCP Microscaling Formats 1.0).

    NAME_blocks   uint8 [E, N, K / 32, 16]    E2M1 codes, two a byte, the first in the lower half
    NAME_scales   uint8 [E, N, K / 32]        exponents of two, + 127

    NAME          [E, K, N]                   what the model has: the transposed stack of w = code * 2^(exponent - 127)

Every weight is exact in bfloat16 too, to which transformers 5.23 dequantizes on a CPU; but it rounds all other tensors to it as well.
"""

from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from harness.errors import ModelError
from harness.models.activations.activation_format import FLOATS
from harness.models.checkpoints.dequantized import Dequantized, bits_of, decode_e8m0, read_tensors
from harness.models.checkpoints.prequantized import Settings

BLOCKS, SCALES = "_blocks", "_scales"


def read(
    folder: Path,
    settings: Settings,  # noqa: ARG001 - part of the interface
    dtype: torch.dtype,
    shape: PreTrainedModel,
) -> Dequantized:
    """Read a folder; see `Reader`."""
    weights = read_tensors(folder, shape)
    quantized, bits = [], 0
    for key in [key for key in weights if key.endswith(BLOCKS)]:
        name = key.removesuffix(BLOCKS)
        blocks, scales = weights.pop(key), weights.pop(f"{name}{SCALES}", None)
        if scales is None or blocks.shape[:-1] != scales.shape or blocks.shape[-1] != 16:
            raise ModelError(
                f"MXFP4 experts must have blocks [E, N, K / 32, 16] and scales [E, N, K / 32], got {tuple(blocks.shape)} and "
                f"{scales if scales is None else tuple(scales.shape)} for {name} in {folder}; download or convert it again"
            )
        bits += bits_of({"blocks": blocks, "scales": scales})
        weights[name] = dequantize(blocks, scales).to(dtype)
        quantized.append(name)
    return Dequantized(weights=weights, quantized=tuple(quantized), packed_bits=bits)


def dequantize(blocks: Tensor, scales: Tensor) -> Tensor:
    """Return the float32 stack `[E, K, N]`."""
    # Two codes a byte, the lower half first.
    codes = torch.stack([blocks & 0xF, blocks >> 4], -1).flatten(-2)
    factors = decode_e8m0(scales)
    values = FLOATS[4].decode(codes) * factors[..., None]  # [E, N, K / 32, 32]
    # transformers' GPT-OSS multiplies x [.., K] by a stack [E, K, N]; files have the outputs first.
    return values.flatten(-2).transpose(1, 2).contiguous()
