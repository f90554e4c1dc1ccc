"""Read FP8 checkpoints of the method `fp8`: DeepSeek-V3 and Qwen3-FP8 (blocks), AutoFP8.

For a linear layer of K inputs and N outputs:

    weight                                  float8_e4m3fn [N, K]
    weight_scale_inv, or weight_scale       [1] or scalar: per-tensor;    [N] or [N, 1]: per-channel
                                            [ceil(N / n), ceil(K / k)]: blocks n x k, cut off at the
                                            edges
    activation_scale, or input_scale        static activation scale, with activation_scheme: static

    w = code * scale

Without static scales, kernels fit a scale to each token, or to each group of k inputs of a token
where weights have blocks. transformers 5.23 on a CPU dequantizes the weights and rounds no
activation, and it takes smaller blocks where n or k does not divide a weight.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from harness.models.activations.activation_format import ActivationFormat
from harness.models.checkpoints.methods.codes import bits_of, decode_scales, over_blocks
from harness.models.checkpoints.methods.dequantized import (
    Dequantized,
    errors_name_layer,
    read_tensors,
)
from harness.models.checkpoints.settings import Settings

WEIGHT_SCALES = ("weight_scale_inv", "weight_scale")
ACTIVATION_SCALES = ("activation_scale", "input_scale")


def read_fp8(
    folder: Path, settings: Settings, dtype: torch.dtype, shape: PreTrainedModel
) -> Dequantized:
    """Read a folder; see `Reader`."""
    weights = read_tensors(folder, shape)
    block = settings.get("weight_block_size")
    is_static = settings.get("activation_scheme", "dynamic") == "static"
    quantized, bits, inputs = [], 0, {}
    for key in [key for key, tensor in weights.items() if _is_fp8_code(key, tensor)]:
        path, codes = key.removesuffix(".weight"), weights[key]
        with errors_name_layer(path, "be FP8 with scales", folder):
            scale = _take_one(weights, path, WEIGHT_SCALES)
            weights[key] = dequantize_fp8(codes, scale, block).to(dtype)
            inputs[path] = _rounding_of_layer(weights, path, block, is_static=is_static)
        bits += bits_of({"weight": codes, "scale": scale})
        quantized.append(key)
    return Dequantized(
        weights=weights,
        quantized=tuple(quantized),
        packed_bits=bits,
        inputs=inputs,
        warnings=_warnings(settings, is_static=is_static),
    )


def _is_fp8_code(key: str, tensor: Tensor) -> bool:
    return key.rpartition(".")[2] == "weight" and tensor.dtype == torch.float8_e4m3fn


def dequantize_fp8(codes: Tensor, scale: Tensor, block: list[int] | None) -> Tensor:
    """Return the float32 weight `[N, K]` of a layer.

    Args:
        codes: FP8 `[N, K]`.
        scale: In one of the shapes of the module docstring; bytes are E8M0.
        block: Sides of the blocks, or None.

    Raises:
        ValueError: The scales do not fit the weight.
    """
    factors, (rows, columns) = decode_scales(scale), codes.shape
    if factors.numel() == 1:
        return codes.float() * factors.reshape(1, 1)
    if factors.shape in ((rows,), (rows, 1)) and not block:
        return codes.float() * factors.reshape(rows, 1)
    expected = block and (-(-rows // block[0]), -(-columns // block[1]))
    if not block or factors.shape != expected:
        raise ValueError(f"scales {tuple(factors.shape)} where there must be {expected or rows}")
    return codes.float() * over_blocks(factors, (rows, columns), (block[0], block[1]))


def _rounding_of_layer(
    weights: dict[str, Tensor], path: str, block: list[int] | None, *, is_static: bool
) -> ActivationFormat:
    """Return what rounds the activations of a layer; take a static scale out of `weights`."""
    options: dict[str, Any] = {"blocks": "token"}
    if is_static:
        scale = _take_one(weights, path, ACTIVATION_SCALES)
        if scale.numel() != 1:
            raise ValueError(f"{scale.numel()} numbers in the activation scale, not 1")
        options = {"blocks": "tensor", "scale": scale}
    elif block:
        options = {"blocks": "group", "group_size": block[1]}
    return ActivationFormat(kind="float", bits=8, **options)


def _take_one(tensors: dict[str, Tensor], path: str, names: tuple[str, ...]) -> Tensor:
    """Take the tensor that a layer has under exactly one of several names out of `tensors`."""
    found = [f"{path}.{name}" for name in names if f"{path}.{name}" in tensors]
    if len(found) != 1:
        raise ValueError(f"{len(found)} of {' and '.join(names)}")
    return tensors.pop(found[0])


def _warnings(settings: Settings, *, is_static: bool) -> tuple[str, ...]:
    if settings.get("scale_fmt") != "ue8m0" or is_static:
        return ()
    return (
        "activations are rounded with float32 scales; kernels for scale_fmt ue8m0 round these "
        "scales up to powers of two",
    )
