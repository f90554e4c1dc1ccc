"""Read a folder of compressed-tensors: every layer by its scheme, and what the checkpoint rounds.

The files have one linear layer for each expert, also where the model keeps stacks. This project
reads the files itself, because transformers 5.23 ignores global scales and zero points of experts,
decompresses every layer by the first group, and does not round activations of experts.

Tensors for activations, beside those of the weights:

    input_scale, input_zero_point, input_global_scale    static, of a layer's activation
    output_scale, output_zero_point                      static, of its output
    k_scale, v_scale                                     of the KV cache, in the attention layer
    k_proj.output_scale, v_proj.output_scale             the same in older checkpoints
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from harness.errors import ModelError
from harness.messages import BATCH_DEPENDENT
from harness.models.activations.activation_format import ActivationFormat, Blocks
from harness.models.checkpoints.methods.compressed_tensors.config import (
    check_order,
    library_config,
    scheme_of,
)
from harness.models.checkpoints.methods.compressed_tensors.weights import (
    WEIGHT_PARTS,
    coded_bits,
    dequantize_layer,
)
from harness.models.checkpoints.methods.dequantized import (
    CacheRounding,
    Dequantized,
    errors_name_layer,
    module_at,
    read_tensors,
)
from harness.models.checkpoints.methods.kv_cache import take_cache_formats, whole_pairs
from harness.models.checkpoints.settings import Settings

STRATEGIES: Mapping[str, Blocks] = {
    "tensor": "tensor",
    "token": "token",
    "group": "group",
    "tensor_group": "group",
}
"""Elements of an activation that share a scale, by the library's strategy."""
Parts = dict[str, Tensor]


def read_compressed_tensors(
    folder: Path, settings: Settings, dtype: torch.dtype, shape: PreTrainedModel
) -> Dequantized:
    """Read a folder; see `Reader`."""
    config = library_config(folder, settings)
    weights = read_tensors(folder, shape)
    layers = _layers(weights)
    check_order(folder, settings, layers)
    bits, inputs, outputs = 0, {}, {}
    for path, parts in layers.items():
        scheme = _needed_scheme(folder, config, path, shape)
        with errors_name_layer(path, "be in a layout of compressed-tensors", folder):
            weight = dequantize_layer(parts, scheme.weights)
            if scheme.input_activations:
                inputs[path] = _activation(weights, path, "input", scheme.input_activations)
            if scheme.output_activations:
                outputs[path] = _activation(weights, path, "output", scheme.output_activations)
        bits += coded_bits(parts, scheme.weights)
        for part in parts:
            del weights[f"{path}.{part}"]
        weights[f"{path}.weight"] = weight.to(dtype)
    quantized = tuple(f"{path}.weight" for path in layers)
    weights |= _turned(shape, {name: weights[name] for name in quantized})
    _check_all_quantized(folder, config, shape, weights, layers)
    cache = _cache_rounding(folder, config.kv_cache_scheme, shape, weights)
    return Dequantized(
        weights=weights,
        quantized=quantized,
        packed_bits=bits,
        inputs=inputs,
        outputs=outputs,
        cache=cache,
        warnings=(*_batch_warnings((*inputs.values(), *outputs.values())), *_cache_warnings(cache)),
    )


def _layers(tensors: Parts) -> dict[str, Parts]:
    """Return the tensors of each quantized layer, by its path."""
    layers: dict[str, Parts] = defaultdict(dict)
    for key, tensor in tensors.items():
        path, _, part = key.rpartition(".")
        if part in WEIGHT_PARTS and _has_codes(tensors, path):
            layers[path][part] = tensor
    return layers


def _has_codes(tensors: Parts, path: str) -> bool:
    """Return whether a layer is quantized.

    Codes without scales count, and scales without codes: `dequantize_layer` names what is missing.
    """
    weight = tensors.get(f"{path}.weight")
    is_code = weight is not None and weight.itemsize == 1
    return is_code or any(f"{path}.weight_{part}" in tensors for part in ("scale", "packed"))


def _needed_scheme(folder: Path, config: Any, path: str, shape: PreTrainedModel) -> Any:
    """Return the scheme of a layer that has codes."""
    found = module_at(shape, path)
    if found is None or isinstance(found, Conv1D):
        # Experts of a stack and Conv1D are linear layers, and config groups know the class Linear.
        found = nn.Linear(1, 1, device="meta")
    scheme = scheme_of(config, path, found)
    if scheme is None:
        raise ModelError(
            f"config.json must say how {path} is quantized, got no config group for it, or its "
            f"name in ignore, in {folder}; download or convert it again"
        )
    return scheme


def _activation(weights: Parts, path: str, side: str, args: Any) -> ActivationFormat:
    """Return what rounds activations or outputs of a layer; take its tensors from `weights`."""

    def stored(name: str, *, needed: bool) -> Tensor | None:
        tensor = weights.pop(f"{path}.{side}_{name}", None)
        if tensor is None and needed:
            raise ValueError(f"no {side}_{name}")
        return tensor

    is_static = args.dynamic is False
    blocks = STRATEGIES.get(str(args.strategy))
    if blocks is None or (is_static and blocks != "tensor"):
        raise ValueError(f"{side}s with one {'static ' * is_static}scale a {args.strategy}")
    has_outer = args.strategy == "tensor_group"
    return ActivationFormat(
        kind=args.type,
        bits=args.num_bits,
        blocks=blocks,
        group_size=args.group_size or 0,
        symmetric=args.symmetric,
        scale=stored("scale", needed=True) if is_static else None,
        zero_point=stored("zero_point", needed=not args.symmetric) if is_static else None,
        outer_scale=stored("global_scale", needed=True) if has_outer else None,
        is_mx=args.scale_dtype is torch.uint8,
    )


def _turned(shape: PreTrainedModel, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of Conv1D layers (GPT-2) as `[N, K]`.

    Some writers store `[K, N]`. Square layers do not show which, so all layers are looked at
    together.
    """
    stored = {name: module_at(shape, name.removesuffix(".weight")) for name in weights}
    convs = {name: m.weight.shape for name, m in stored.items() if isinstance(m, Conv1D)}
    if any(weights[name].shape == size != size[::-1] for name, size in convs.items()):
        return {name: weights[name].T for name in convs}
    return {}


def _check_all_quantized(
    folder: Path, config: Any, shape: PreTrainedModel, weights: Parts, layers: Iterable[str]
) -> None:
    """Raise ModelError for linear layers with a scheme and float weights: codes are lost."""
    coded = set(layers)
    floats = [
        path
        for path, module in shape.named_modules()
        if isinstance(module, nn.Linear)
        and path not in coded
        and f"{path}.weight" in weights
        and scheme_of(config, path, module) is not None
    ]
    if floats:
        raise ModelError(
            "every layer that config.json says is quantized must have codes and scales, got "
            f"{len(floats)} with float weights in {folder}, such as {floats[0]}; name them in "
            "ignore, or download or convert it again"
        )


def _cache_rounding(
    folder: Path, args: Any, shape: PreTrainedModel, weights: Parts
) -> dict[str, CacheRounding]:
    """Return what rounds keys and values; take its tensors out of `weights`."""
    if args is None:
        return {}
    if args.dynamic or args.strategy not in ("tensor", "attn_head"):
        raise ModelError(
            "a KV cache must have static scales, one a layer or a head, got "
            f"{'dynamic ' * bool(args.dynamic)}ones by {args.strategy} in {folder}; take "
            "kv_cache_scheme out of config.json"
        )

    def make(scale: Tensor, zero: Tensor | None) -> ActivationFormat:
        return ActivationFormat(
            kind=args.type,
            bits=args.num_bits,
            blocks="tensor",
            symmetric=args.symmetric,
            scale=scale,
            zero_point=zero,
        )

    found = take_cache_formats(
        folder, weights, lambda side: (f".{side}_", f".{side}_proj.output_"), make
    )
    pairs = whole_pairs(found)
    num_layers = sum(hasattr(module, "k_proj") for module in shape.modules())
    if len(pairs) != len(found) or len(pairs) != num_layers:
        raise ModelError(
            "a checkpoint with a kv_cache_scheme must have k_scale and v_scale of every attention "
            f"layer, got both for {len(pairs)} of {num_layers} in {folder}; take kv_cache_scheme "
            "out of config.json, or download it again"
        )
    return pairs


def _batch_warnings(formats: Iterable[ActivationFormat]) -> list[str]:
    """Return a warning for each format with one dynamic scale a tensor, which a batch changes."""
    shared = {fmt.name for fmt in formats if fmt.blocks == "tensor" and fmt.scale is None}
    return [
        f"activations in {name} share a scale between tokens: {BATCH_DEPENDENT}"
        for name in sorted(shared)
    ]


def _cache_warnings(cache: Mapping[str, CacheRounding]) -> list[str]:
    if not cache:
        return []
    return [
        "keys and values are rounded, as kv_cache_scheme of config.json says; serving engines "
        "round them only if told to"
    ]
