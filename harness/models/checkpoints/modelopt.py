"""Checkpoints of NVIDIA ModelOpt (unified Hugging Face export, 0.47), dequantized to float.

`hf_quant_config.json` names the algorithm, newer exports say the same in `config.json`. For a linear layer of K inputs, N outputs:

    algorithm                    weight                     weight_scale
    FP8                          float8_e4m3fn [N, K]       float32, one
    FP8_PER_CHANNEL_PER_TOKEN    float8_e4m3fn [N, K]       float32 [N]
    fp8_pb_wo                    float8_e4m3fn [N, K]       float32 [N / n, 1, K / k, 1]
    NVFP4, W4A16_NVFP4           uint8 [N, K / 2]           float8_e4m3fn [N, K / 16], and float32 weight_scale_2, one

    w = code * weight_scale            FP8
    w = code * weight_scale * weight_scale_2      NVFP4: E2M1, two a byte, the lower half first

Inputs are rounded as the algorithm says: FP8 with the static `input_scale`, per token without one, NVFP4 with a scale for each 16 in
units of `input_scale`. W4A16_NVFP4 and fp8_pb_wo leave them in float. In a MIXED_PRECISION checkpoint each layer has its own algorithm
(`quantized_layers`). A KV cache in FP8 has `k_proj.k_scale` and `v_proj.v_scale`.
"""

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from harness.errors import ModelError
from harness.models.activations.activation_format import FLOATS, ActivationFormat
from harness.models.checkpoints.dequantized import CacheRounding, Dequantized, bits_of, read_tensors
from harness.models.checkpoints.prequantized import MODELOPT_FILE, Settings

FP8 = ("FP8", "FP8_PER_CHANNEL_PER_TOKEN", "FP8_PB_WO")
NVFP4 = ("NVFP4", "W4A16_NVFP4")
MIXED = "MIXED_PRECISION"
PARTS = ("weight", "weight_scale", "weight_scale_2")
BLOCK = 16
"""Elements of NVFP4 with one scale."""
CODES = (torch.float8_e4m3fn, torch.float8_e5m2, torch.uint8, torch.int8, torch.int32)


def read(
    folder: Path,
    settings: Settings,
    dtype: torch.dtype,
    shape: PreTrainedModel,
) -> Dequantized:
    """Read a folder; see `Reader`."""
    facts = _facts(folder, settings)
    weights = read_tensors(folder, shape)
    names = [key for key, tensor in weights.items() if _is_code(key, tensor)]
    quantized, bits, inputs = [], 0, {}
    for key in names:
        path = key.removesuffix(".weight")
        parts = {
            part: weights.pop(f"{path}.{part}") for part in PARTS if f"{path}.{part}" in weights
        }
        try:
            algorithm = _algorithm(facts, path)
            weight = dequantize(parts, algorithm)
            rounding = _input_format(algorithm, weights.pop(f"{path}.input_scale", None))
        except ValueError as reason:
            raise ModelError(
                f"layer {path} must be as ModelOpt exports it, got {reason} in {folder}; download or convert it again"
            ) from reason
        weights[key] = weight.to(dtype)
        quantized.append(key)
        bits += bits_of(parts)
        if rounding is not None:
            inputs[path] = rounding
    cache, warnings = _cache(facts, weights)
    if left := sorted(key for key, tensor in weights.items() if tensor.dtype in CODES):
        raise ModelError(
            f"every code must belong to a layer with a weight and a scale, got {len(left)} others in {folder}, such as "
            f"{left[0]}; stacks of experts are read as one layer an expert: export it again"
        )
    return Dequantized(
        weights=weights,
        quantized=tuple(quantized),
        packed_bits=bits,
        inputs=inputs,
        cache=cache,
        warnings=warnings,
    )


def dequantize(parts: Mapping[str, Tensor], algorithm: str) -> Tensor:
    """Return the float32 weight `[N, K]` of a layer.

    Raises:
        ValueError: The tensors are not those of the algorithm.
    """
    needed = PARTS if algorithm in NVFP4 else PARTS[:2]
    if lacking := [part for part in needed if part not in parts]:
        raise ValueError(f"no {', '.join(lacking)}")
    codes, scale = parts["weight"], parts["weight_scale"]
    expected = torch.uint8 if algorithm in NVFP4 else torch.float8_e4m3fn
    if codes.dtype != expected or codes.dim() != 2:
        raise ValueError(f"codes {tuple(codes.shape)} in {codes.dtype} for {algorithm}")
    if algorithm in NVFP4:
        return _nvfp4(codes, scale, parts["weight_scale_2"])
    rows, columns = codes.shape
    if algorithm == "FP8_PB_WO" and scale.dim() == 4:
        tall, wide = scale.shape[0], scale.shape[2]
        if rows % tall or columns % wide:
            raise ValueError(f"{tall} x {wide} scales for {rows} x {columns} codes")
        blocks = scale.float().reshape(tall, wide).repeat_interleave(rows // tall, 0)
        return codes.float() * blocks.repeat_interleave(columns // wide, 1)
    count = {"FP8": 1, "FP8_PER_CHANNEL_PER_TOKEN": rows}.get(algorithm)
    if scale.numel() != count:
        raise ValueError(f"scales {tuple(scale.shape)} for {algorithm} of {rows} x {columns}")
    return codes.float() * scale.float().reshape(-1, 1)


def _nvfp4(codes: Tensor, scale: Tensor, outer: Tensor) -> Tensor:
    """Return the float32 weight `[N, K]` of E2M1 codes `[N, K / 2]`, scales of blocks `[N, K / 16]` and one scale of the layer."""
    rows, columns = len(codes), 2 * codes.shape[1]
    if scale.dtype != torch.float8_e4m3fn or scale.shape != (rows, columns // BLOCK):
        raise ValueError(f"scales {tuple(scale.shape)} in {scale.dtype} for {rows} x {columns}")
    if columns % BLOCK or outer.numel() != 1:
        raise ValueError(f"{columns} inputs and {outer.numel()} outer scales")
    # Two codes a byte, the lower half first.
    codes_NK = torch.stack((codes & 15, codes >> 4), dim=-1).flatten(1)
    values = FLOATS[4].decode(codes_NK).float()
    # The product of an E4M3 and a float32 scale, rounded once, is the scale of 16 inputs.
    factors = scale.float() * outer.float().reshape(())
    return values * factors.repeat_interleave(BLOCK, dim=1)


def _is_code(key: str, tensor: Tensor) -> bool:
    return key.endswith(".weight") and tensor.dtype in CODES


def _facts(folder: Path, settings: Settings) -> dict[str, Any]:
    """Return algorithm, layers and KV cache, which two files may name in two ways.

    Raises:
        ModelError: The files disagree, or the algorithm is not read here.
    """
    file = folder / MODELOPT_FILE
    found: dict[str, Any] = {}
    if file.is_file():
        found = dict(json.loads(file.read_text(encoding="utf-8"))["quantization"])
    nested = settings.get("quantization")
    own = {**settings, **(nested if isinstance(nested, Mapping) else {})}
    cache = own.get("kv_cache_scheme")
    # config.json spells FP8 out: {"num_bits": 8, "type": "float"}.
    own.setdefault("kv_cache_quant_algo", "FP8" if isinstance(cache, Mapping) else cache)
    for key in ("quant_algo", "kv_cache_quant_algo"):
        said = [str(place[key]).upper() for place in (found, own) if place.get(key)]
        if len(set(said)) > 1:
            raise ModelError(
                f"config.json and {MODELOPT_FILE} must say the same {key}, got {' and '.join(said)} in {folder}; "
                "download the checkpoint again"
            )
        found[key] = said[0] if said else None
    found["quantized_layers"] = found.get("quantized_layers") or own.get("quantized_layers") or {}
    if found["quant_algo"] not in (*FP8, *NVFP4, MIXED):
        raise ModelError(
            f"a ModelOpt checkpoint must be quantized by one of {', '.join((*FP8, *NVFP4, MIXED))}, got {found['quant_algo']} in "
            f"{folder}; export it in another format, or load the float checkpoint and quantize it here"
        )
    return found


def _algorithm(facts: Mapping[str, Any], path: str) -> str:
    """Return the algorithm of a layer."""
    if facts["quant_algo"] != MIXED:
        return str(facts["quant_algo"])
    layer = facts["quantized_layers"].get(path) or {}
    algorithm = str(layer.get("quant_algo")).upper()
    if algorithm not in (*FP8, *NVFP4):
        raise ValueError(f"the algorithm {layer.get('quant_algo')} in quantized_layers")
    return algorithm


def _input_format(algorithm: str, scale: Tensor | None) -> ActivationFormat | None:
    """Return what rounds the inputs of a layer, or None if they stay in float."""
    needs_scale = algorithm in ("FP8", "NVFP4")
    if needs_scale != (scale is not None):
        raise ValueError(f"{'no ' * needs_scale}input_scale for {algorithm}")
    if scale is not None and scale.numel() != 1:
        raise ValueError(f"input_scale {tuple(scale.shape)}, not one number")
    if algorithm == "FP8":
        return ActivationFormat(kind="float", bits=8, blocks="tensor", scale=scale)
    if algorithm == "FP8_PER_CHANNEL_PER_TOKEN":
        return ActivationFormat(kind="float", bits=8, blocks="token")
    if scale is not None:
        # ModelOpt stores input_scale, compressed-tensors (whose arithmetic ActivationFormat has) its reciprocal.
        outer = 1 / scale.float()
        return ActivationFormat(
            kind="float", bits=4, blocks="group", group_size=BLOCK, outer_scale=outer
        )
    return None


def _cache(
    facts: Mapping[str, Any], weights: dict[str, Tensor]
) -> tuple[dict[str, CacheRounding], tuple[str, ...]]:
    """Return what rounds keys and values, and what is not rounded; take the scales out of `weights`."""
    algorithm = facts["kv_cache_quant_algo"]
    found: dict[str, dict[str, ActivationFormat]] = defaultdict(dict)
    for side in "kv":
        end = f".{side}_proj.{side}_scale"
        for key in [key for key in weights if algorithm and key.endswith(end)]:
            try:
                rounding = ActivationFormat(
                    kind="float", bits=8, blocks="tensor", scale=weights.pop(key)
                )
            except ValueError as reason:
                raise ModelError(
                    f"scales of a KV cache must be numbers above 0, got {reason} as {key}; download the checkpoint again"
                ) from reason
            found[key.removesuffix(end)][side] = rounding
    if algorithm is None:
        return {}, ()
    whole = all(len(sides) == len("kv") for sides in found.values())
    if algorithm != "FP8" or not found or not whole:
        why = "the files lack its scales" if algorithm == "FP8" else "it is not applied here"
        return {}, (f"the KV cache stays in float, the checkpoint asks for {algorithm}: {why}",)
    return {path: CacheRounding(sides["k"], sides["v"]) for path, sides in found.items()}, ()
