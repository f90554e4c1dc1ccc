"""Read checkpoints of NVIDIA ModelOpt (unified Hugging Face export, 0.47).

`hf_quant_config.json` names the algorithm. Newer exports say the same in `config.json`. For a
linear layer of K inputs and N outputs:

    algorithm                    weight                     weight_scale
    FP8                          float8_e4m3fn [N, K]       float32, one
    FP8_PER_CHANNEL_PER_TOKEN    float8_e4m3fn [N, K]       float32 [N]
    fp8_pb_wo                    float8_e4m3fn [N, K]       float32 [N / n, 1, K / k, 1]
    NVFP4, W4A16_NVFP4           uint8 [N, K / 2]           float8_e4m3fn [N, K / 16], and one
                                                            float32 weight_scale_2

    w = code * weight_scale                       FP8
    w = code * (weight_scale * weight_scale_2)    NVFP4: E2M1 codes, two a byte, lower half first

Activations are rounded as the algorithm says: FP8 with the static `input_scale`;
FP8_PER_CHANNEL_PER_TOKEN per token; NVFP4 with a scale for each 16 elements, in units of
`input_scale`; the others not at all. In a MIXED_PRECISION checkpoint each layer has an algorithm of
its own (`quantized_layers`). An FP8 KV cache has `k_proj.k_scale` and `v_proj.v_scale`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from harness.errors import ModelError
from harness.models.activations.activation_format import FLOAT_ELEMENTS, ActivationFormat
from harness.models.checkpoints.folder_files import json_object
from harness.models.checkpoints.methods.codes import bits_of, over_blocks, unpack_nibbles
from harness.models.checkpoints.methods.dequantized import (
    CacheRounding,
    Dequantized,
    check_parts,
    errors_name_layer,
    read_tensors,
)
from harness.models.checkpoints.methods.kv_cache import take_cache_formats, whole_pairs
from harness.models.checkpoints.settings import MODELOPT_FILE, Settings

FP8_ALGORITHMS = ("FP8", "FP8_PER_CHANNEL_PER_TOKEN", "FP8_PB_WO")
NVFP4_ALGORITHMS = ("NVFP4", "W4A16_NVFP4")
ALGORITHMS = (*FP8_ALGORITHMS, *NVFP4_ALGORITHMS)
MIXED = "MIXED_PRECISION"
MODELOPT_PARTS = ("weight", "weight_scale", "weight_scale_2")
"""Tensors of a layer. NVFP4 needs all three, FP8 the first two."""
NVFP4_BLOCK = 16
"""Elements of NVFP4 that share a scale."""
CODE_TYPES = (torch.float8_e4m3fn, torch.float8_e5m2, torch.uint8, torch.int8, torch.int32)


def read_modelopt(
    folder: Path, settings: Settings, dtype: torch.dtype, shape: PreTrainedModel
) -> Dequantized:
    """Read a folder; see `Reader`."""
    said = _merged_settings(folder, settings)
    weights = read_tensors(folder, shape)
    quantized, bits, inputs = [], 0, {}
    for key in [key for key, tensor in weights.items() if _is_code(key, tensor)]:
        path = key.removesuffix(".weight")
        names = {part: f"{path}.{part}" for part in MODELOPT_PARTS}
        parts = {part: weights.pop(name) for part, name in names.items() if name in weights}
        with errors_name_layer(path, "be as ModelOpt exports it", folder):
            algorithm = _algorithm(said, path)
            weights[key] = dequantize_modelopt(parts, algorithm).to(dtype)
            rounding = _rounding_of_algorithm(algorithm, weights.pop(f"{path}.input_scale", None))
        quantized.append(key)
        bits += bits_of(parts)
        if rounding is not None:
            inputs[path] = rounding
    cache, warnings = _cache_and_warnings(folder, said, weights)
    if left := sorted(key for key, tensor in weights.items() if tensor.dtype in CODE_TYPES):
        raise ModelError(
            f"every code must belong to a layer with a weight and a scale, got {len(left)} others "
            f"in {folder}, such as {left[0]}; experts must be stored as one layer each: export it "
            "again"
        )
    return Dequantized(
        weights=weights,
        quantized=tuple(quantized),
        packed_bits=bits,
        inputs=inputs,
        cache=cache,
        warnings=warnings,
    )


def _is_code(key: str, tensor: Tensor) -> bool:
    return key.endswith(".weight") and tensor.dtype in CODE_TYPES


def dequantize_modelopt(parts: Mapping[str, Tensor], algorithm: str) -> Tensor:
    """Return the float32 weight `[N, K]` of a layer.

    Raises:
        ValueError: The algorithm has other tensors.
    """
    is_nvfp4 = algorithm in NVFP4_ALGORITHMS
    check_parts(parts, MODELOPT_PARTS if is_nvfp4 else MODELOPT_PARTS[:2])
    codes, scale = parts["weight"], parts["weight_scale"]
    if codes.dtype != (torch.uint8 if is_nvfp4 else torch.float8_e4m3fn) or codes.dim() != 2:
        raise ValueError(f"codes {tuple(codes.shape)} in {codes.dtype} for {algorithm}")
    if is_nvfp4:
        return _dequantize_nvfp4(codes, scale, parts["weight_scale_2"])
    rows, columns = codes.shape
    if algorithm == "FP8_PB_WO" and scale.dim() == 4:
        tall, wide = scale.shape[0], scale.shape[2]
        if rows % tall or columns % wide:
            raise ValueError(f"{tall} x {wide} scales for {rows} x {columns} codes")
        blocks, sides = scale.float().reshape(tall, wide), (rows // tall, columns // wide)
        return codes.float() * over_blocks(blocks, (rows, columns), sides)
    count = {"FP8": 1, "FP8_PER_CHANNEL_PER_TOKEN": rows}.get(algorithm)
    if scale.numel() != count:
        raise ValueError(f"scales {tuple(scale.shape)} for {algorithm} of {rows} x {columns}")
    return codes.float() * scale.float().reshape(-1, 1)


def _dequantize_nvfp4(codes: Tensor, scale: Tensor, outer: Tensor) -> Tensor:
    """Return the float32 weight `[N, K]` of E2M1 codes `[N, K / 2]`."""
    rows, columns = len(codes), 2 * codes.shape[1]
    if scale.dtype != torch.float8_e4m3fn or scale.shape != (rows, columns // NVFP4_BLOCK):
        raise ValueError(f"scales {tuple(scale.shape)} in {scale.dtype} for {rows} x {columns}")
    if columns % NVFP4_BLOCK or outer.numel() != 1:
        raise ValueError(f"{columns} inputs and {outer.numel()} outer scales")
    values = FLOAT_ELEMENTS[4].decode(unpack_nibbles(codes)).float()
    # First multiply the two scales, which rounds once, as kernels do.
    factors = scale.float() * outer.float().reshape(())
    return values * factors.repeat_interleave(NVFP4_BLOCK, dim=1)


def _merged_settings(folder: Path, settings: Settings) -> dict[str, Any]:
    """Return algorithm, layers and KV cache, which two files may name in two ways.

    Raises:
        ModelError: The files disagree, or the algorithm is unknown.
    """
    file = folder / MODELOPT_FILE
    merged: dict[str, Any] = dict(json_object(file)["quantization"]) if file.is_file() else {}
    nested = settings.get("quantization")
    own = {**settings, **(nested if isinstance(nested, Mapping) else {})}
    cache = own.get("kv_cache_scheme")
    # config.json spells FP8 out: {"num_bits": 8, "type": "float"}.
    own.setdefault("kv_cache_quant_algo", "FP8" if isinstance(cache, Mapping) else cache)
    for key in ("quant_algo", "kv_cache_quant_algo"):
        said = [str(place[key]).upper() for place in (merged, own) if place.get(key)]
        if len(set(said)) > 1:
            raise ModelError(
                f"config.json and {MODELOPT_FILE} must say the same {key}, got "
                f"{' and '.join(said)} in {folder}; download the checkpoint again"
            )
        merged[key] = said[0] if said else None
    merged["quantized_layers"] = merged.get("quantized_layers") or own.get("quantized_layers") or {}
    if merged["quant_algo"] not in (*ALGORITHMS, MIXED):
        raise ModelError(
            f"a ModelOpt checkpoint must be quantized by one of {', '.join((*ALGORITHMS, MIXED))}, "
            f"got {merged['quant_algo']} in {folder}; export it in another format, or load the "
            "unquantized checkpoint and quantize it here"
        )
    return merged


def _algorithm(said: Mapping[str, Any], path: str) -> str:
    """Return the algorithm of a layer."""
    if said["quant_algo"] != MIXED:
        return str(said["quant_algo"])
    layer = said["quantized_layers"].get(path) or {}
    algorithm = str(layer.get("quant_algo")).upper()
    if algorithm not in ALGORITHMS:
        raise ValueError(f"the algorithm {layer.get('quant_algo')} in quantized_layers")
    return algorithm


def _rounding_of_algorithm(algorithm: str, scale: Tensor | None) -> ActivationFormat | None:
    """Return what rounds the activations of a layer; None if nothing does."""
    needs_scale = algorithm in ("FP8", "NVFP4")
    if needs_scale != (scale is not None):
        raise ValueError(f"{'no ' * needs_scale}input_scale for {algorithm}")
    if scale is not None and scale.numel() != 1:
        raise ValueError(f"input_scale {tuple(scale.shape)}, not one number")
    if algorithm == "FP8":
        return ActivationFormat(kind="float", bits=8, blocks="tensor", scale=scale)
    if algorithm == "FP8_PER_CHANNEL_PER_TOKEN":
        return ActivationFormat(kind="float", bits=8, blocks="token")
    if scale is None:
        return None
    # ModelOpt stores the scale itself. ActivationFormat takes its reciprocal, as compressed-tensors
    # does.
    return ActivationFormat(
        kind="float",
        bits=4,
        blocks="group",
        group_size=NVFP4_BLOCK,
        outer_scale=1 / scale.float(),
    )


def _cache_and_warnings(
    folder: Path, said: Mapping[str, Any], weights: dict[str, Tensor]
) -> tuple[dict[str, CacheRounding], tuple[str, ...]]:
    """Return what rounds keys and values, and a warning where it is not applied."""
    algorithm = said["kv_cache_quant_algo"]
    if algorithm is None:
        return {}, ()
    found = take_cache_formats(
        folder,
        weights,
        places=lambda side: (f".{side}_proj.{side}_",),
        make=lambda scale, _: ActivationFormat(kind="float", bits=8, blocks="tensor", scale=scale),
    )
    pairs = whole_pairs(found)
    if algorithm != "FP8" or not pairs or len(pairs) != len(found):
        why = (
            "the files lack its scales" if algorithm == "FP8" else "this format is not applied here"
        )
        return {}, (f"the KV cache is not rounded, though the checkpoint says {algorithm}: {why}",)
    return pairs, ()
