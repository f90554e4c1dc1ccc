"""FP8 checkpoints of the method `fp8`: DeepSeek-V3, Qwen3-FP8 (rectangles of 128 x 128), AutoFP8 (one scale a tensor).

    weight                                    float8_e4m3fn [N, K]
    weight_scale_inv, or weight_scale         [1] or scalar: the tensor; [N] or [N, 1]: rows;
                                              [ceil(N / n), ceil(K / k)]: rectangles, the last ones cut off
    activation_scale, or input_scale          the static scale of a layer's input, with activation_scheme: static

    w = code * scale

Without static scales, kernels fit one to each token, or to each group of k inputs of a token where weights have rectangles. On a CPU
transformers 5.23 dequantizes the weights and rounds no input; and where rectangles do not divide a weight it takes smaller ones.
"""

from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from harness.errors import ModelError
from harness.models.activations.activation_format import ActivationFormat
from harness.models.checkpoints.dequantized import Dequantized, bits_of, decode_e8m0, read_tensors
from harness.models.checkpoints.prequantized import Settings

SCALES = ("weight_scale_inv", "weight_scale")
INPUT_SCALES = ("activation_scale", "input_scale")


def read(
    folder: Path,
    settings: Settings,
    dtype: torch.dtype,
    shape: PreTrainedModel,
) -> Dequantized:
    """Read a folder; see `Reader`."""
    tensors = read_tensors(folder, shape)
    block = settings.get("weight_block_size")
    is_static = settings.get("activation_scheme", "dynamic") == "static"
    weights = dict(tensors)
    quantized, bits, inputs = [], 0, {}
    for key, codes in tensors.items():
        path, _, part = key.rpartition(".")
        if part != "weight" or codes.dtype != torch.float8_e4m3fn:
            continue
        try:
            name, scale = _only(tensors, path, SCALES)
            weights[key] = dequantize(codes, scale, block).to(dtype)
            del weights[name]
            static = _take_static_scale(weights, path) if is_static else None
            inputs[path] = _input_format(block, static)
        except ValueError as reason:
            raise ModelError(
                f"layer {path} must be FP8 with scales, got {reason} in {folder}; download or convert it again"
            ) from reason
        bits += bits_of({key: codes, "scale": scale})
        quantized.append(key)
    warnings = []
    if settings.get("scale_fmt") == "ue8m0" and not is_static:
        warnings.append(
            "inputs are rounded with float32 scales; kernels for scale_fmt ue8m0 round these scales up to powers of two"
        )
    return Dequantized(
        weights=weights,
        quantized=tuple(quantized),
        packed_bits=bits,
        inputs=inputs,
        warnings=tuple(warnings),
    )


def dequantize(codes: Tensor, scale: Tensor, block: list[int] | None) -> Tensor:
    """Return the float32 weight `[N, K]`; raise ValueError if the scales do not fit.

    Args:
        codes: FP8 `[N, K]`.
        scale: See the module docstring; bytes are E8M0.
        block: Sides of the rectangles with one scale.
    """
    factors = decode_e8m0(scale) if scale.dtype == torch.uint8 else scale.float()
    rows, columns = codes.shape
    if factors.numel() == 1:
        return codes.float() * factors.reshape(1, 1)
    if factors.shape in ((rows,), (rows, 1)) and not block:
        return codes.float() * factors.reshape(rows, 1)
    expected = block and (-(-rows // block[0]), -(-columns // block[1]))
    if not block or factors.shape != expected:
        raise ValueError(f"scales {tuple(factors.shape)} where there must be {expected or rows}")
    # Each scale covers a rectangle of n rows and k columns; those at the edges are cut off with the weight.
    tall = factors.repeat_interleave(block[0], 0)[:rows]
    return codes.float() * tall.repeat_interleave(block[1], 1)[:, :columns]


def _take_static_scale(weights: dict[str, Tensor], path: str) -> Tensor:
    """Return the static scale of a layer's input, and take it out of `weights`."""
    name, scale = _only(weights, path, INPUT_SCALES)
    if scale.numel() != 1:
        raise ValueError(f"{scale.numel()} numbers in {name}, not 1")
    return weights.pop(name)


def _only(tensors: dict[str, Tensor], path: str, names: tuple[str, ...]) -> tuple[str, Tensor]:
    """Return name and tensor of what a layer has under one of several names."""
    found = [f"{path}.{name}" for name in names if f"{path}.{name}" in tensors]
    if len(found) != 1:
        raise ValueError(f"{len(found)} of {' and '.join(names)}")
    return found[0], tensors[found[0]]


def _input_format(block: list[int] | None, static: Tensor | None) -> ActivationFormat:
    if static is not None:
        return ActivationFormat(kind="float", bits=8, blocks="tensor", scale=static)
    if block:
        return ActivationFormat(kind="float", bits=8, blocks="group", group_size=block[1])
    return ActivationFormat(kind="float", bits=8, blocks="token")
