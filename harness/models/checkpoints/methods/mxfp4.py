"""Read checkpoints of the method `mxfp4`: GPT-OSS, with experts in MXFP4 (OCP MX 1.0).

    NAME_blocks   uint8 [E, N, K / 32, 16]    E2M1 codes, two a byte, the lower half first
    NAME_scales   uint8 [E, N, K / 32]        E8M0: exponents of two, + 127

    NAME          [E, K, N]                   parameter of the model: w = code * scale, transposed

transformers 5.23 on a CPU dequantizes to bfloat16, which holds every such weight exactly, but
rounds all other tensors to bfloat16 as well.
"""

from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from harness.errors import ModelError
from harness.models.activations.activation_format import FLOAT_ELEMENTS
from harness.models.checkpoints.methods.codes import bits_of, decode_e8m0, unpack_nibbles
from harness.models.checkpoints.methods.dequantized import Dequantized, read_tensors
from harness.models.checkpoints.settings import Settings

BLOCKS_END, SCALES_END = "_blocks", "_scales"


def read_mxfp4(
    folder: Path,
    settings: Settings,  # noqa: ARG001 - part of the interface
    dtype: torch.dtype,
    shape: PreTrainedModel,
) -> Dequantized:
    """Read a folder; see `Reader`."""
    weights = read_tensors(folder, shape)
    quantized, bits = [], 0
    for key in [key for key in weights if key.endswith(BLOCKS_END)]:
        name = key.removesuffix(BLOCKS_END)
        blocks, scales = weights.pop(key), weights.pop(f"{name}{SCALES_END}", None)
        if scales is None or blocks.shape[:-1] != scales.shape or blocks.shape[-1] != 16:
            raise ModelError(
                "MXFP4 experts must have blocks [E, N, K / 32, 16] and scales [E, N, K / 32], got "
                f"{tuple(blocks.shape)} and {scales if scales is None else tuple(scales.shape)} "
                f"for {name} in {folder}; download or convert it again"
            )
        bits += bits_of({"blocks": blocks, "scales": scales})
        weights[name] = dequantize_mxfp4(blocks, scales).to(dtype)
        quantized.append(name)
    return Dequantized(weights=weights, quantized=tuple(quantized), packed_bits=bits)


def dequantize_mxfp4(blocks: Tensor, scales: Tensor) -> Tensor:
    """Return the float32 stack `[E, K, N]`; the module docstring has the arguments' shapes."""
    values = FLOAT_ELEMENTS[4].decode(unpack_nibbles(blocks))  # [E, N, K / 32, 32]
    values = values * decode_e8m0(scales)[..., None]
    # Files have the outputs first. GPT-OSS multiplies x [.., K] by a stack [E, K, N].
    return values.flatten(-2).transpose(1, 2).contiguous()
