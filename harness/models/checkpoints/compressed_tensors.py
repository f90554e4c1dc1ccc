"""Checkpoints of compressed-tensors (llm-compressor, and this project's exports): find the scheme and the tensors of each layer.

`config_groups` of the settings give schemes to layers by path, regular expression (`re:`) or class (`Linear`), `ignore` takes layers
out again. The files have a linear layer for each expert, also where the model has stacks. This project reads the files itself, because transformers 5.23
ignores global scales and zero points of experts, decompresses every layer by the first group, and leaves inputs of experts in float.

    input_scale, input_zero_point, input_global_scale    static scales of a layer's input; output_scale, ... of its output
    k_scale, v_scale                                     of the KV cache, in the attention layer
    k_proj.output_scale, v_proj.output_scale             the same in older checkpoints
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from harness.errors import ModelError
from harness.models.activations.activation_format import ActivationFormat, Blocks
from harness.models.checkpoints.compressed_tensors_weights import PARTS, dequantize, packed_bits
from harness.models.checkpoints.dequantized import (
    CacheRounding,
    Dequantized,
    module_at,
    read_tensors,
)
from harness.models.checkpoints.loading_report import in_a_line
from harness.models.checkpoints.prequantized import Settings

BLOCKS: Mapping[str, Blocks] = {
    "tensor": "tensor",
    "token": "token",
    "group": "group",
    "tensor_group": "group",
}
"""What shares a scale of an activation, by the library's strategy."""
ACTORDER_GROUP = ("group", "dynamic", True)
"""Names of one order: groups follow the order of activations, and files say by `weight_g_idx` which input is in which."""
Parts = dict[str, Tensor]


def read(
    folder: Path, settings: Settings, dtype: torch.dtype, shape: PreTrainedModel
) -> Dequantized:
    """Read a folder; see `Reader`."""
    config = _config(folder, settings)
    weights = read_tensors(folder, shape)
    layers = _layers(weights)
    _refuse_unsaid_order(folder, settings, layers)
    quantized, bits, inputs, outputs = [], 0, {}, {}
    for path, parts in layers.items():
        scheme = _scheme(config, path, _class_of(shape, path))
        if scheme is None:
            raise ModelError(
                f"config.json must say how {path} is quantized, got no config group for it, or its name in ignore, in {folder}; download or convert it again"
            )
        try:
            weight = dequantize(parts, scheme.weights)
            if scheme.input_activations:
                inputs[path] = _activation(weights, path, "input", scheme.input_activations)
            if scheme.output_activations:
                outputs[path] = _activation(weights, path, "output", scheme.output_activations)
        except ValueError as reason:
            raise ModelError(
                f"layer {path} must be in a layout of compressed-tensors, got {reason} in {folder}; download or convert it again"
            ) from reason
        bits += packed_bits(parts, scheme.weights)
        for part in parts:
            del weights[f"{path}.{part}"]
        weights[f"{path}.weight"] = weight.to(dtype)
        quantized.append(f"{path}.weight")
    weights |= _turned(shape, {name: weights[name] for name in quantized})
    _check_all_quantized(folder, config, shape, weights, layers)
    cache = _cache(folder, config.kv_cache_scheme, shape, weights)
    return Dequantized(
        weights=weights,
        quantized=tuple(quantized),
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
        if part in PARTS and _has_codes(tensors, path):
            layers[path][part] = tensor
    return layers


def _refuse_unsaid_order(folder: Path, settings: Settings, layers: Mapping[str, Parts]) -> None:
    """Raise ModelError for a `weight_g_idx` that reorders inputs where config.json says that groups follow one another."""
    groups = (settings.get("config_groups") or {}).values()
    if any(_args(group).get("actorder") in ACTORDER_GROUP for group in groups):
        return
    for path, parts in layers.items():
        group = parts.get("weight_g_idx")
        if group is not None and bool((group.diff() < 0).any()):
            raise ModelError(
                f"layer {path} must have its groups in order unless config.json says actorder: group, got a weight_g_idx that reorders "
                f"them in {folder}; download or convert it again"
            )


def _args(group: Any) -> Mapping[str, Any]:
    """Return what a config group says of weights; what is damaged is for the library to refuse."""
    args = group.get("weights") if isinstance(group, Mapping) else None
    return args if isinstance(args, Mapping) else {}


def _has_codes(tensors: Parts, path: str) -> bool:
    """Say whether a layer is quantized. Codes without scales and scales without codes count: `dequantize` names them."""
    weight = tensors.get(f"{path}.weight")
    is_code = weight is not None and weight.itemsize == 1
    return is_code or any(f"{path}.weight_{part}" in tensors for part in ("scale", "packed"))


def _batch_warnings(formats: Iterable[ActivationFormat]) -> list[str]:
    """Return a warning for each format with one dynamic scale a tensor: other sequences of a batch change it."""
    shared = {fmt.name for fmt in formats if fmt.blocks == "tensor" and fmt.scale is None}
    return [
        f"activations in {name} share a scale between tokens: results depend on how sequences are batched"
        for name in sorted(shared)
    ]


def _cache_warnings(cache: Mapping[str, CacheRounding]) -> list[str]:
    if not cache:
        return []
    return [
        "keys and values are rounded, as kv_cache_scheme of config.json says; serving engines do so where they are told to"
    ]


def _config(folder: Path, settings: Settings) -> Any:
    """Return the library's `QuantizationConfig`, which checks the settings."""
    _refuse_transforms(folder, settings.get("transform_config") or {})
    groups, stored = {}, settings.get("config_groups") or {}
    if not isinstance(stored, Mapping):
        raise ModelError(
            f"config_groups must be an object of groups, got a {type(stored).__name__} in {folder}; download it again"
        )
    for name, group in stored.items():
        groups[name] = group
        if isinstance(group, Mapping) and isinstance(group.get("weights"), Mapping):
            # The library has forgotten the order of activations; the files say it where it matters (weight_g_idx).
            weights = {key: value for key, value in group["weights"].items() if key != "actorder"}
            groups[name] = {**group, "weights": weights}
    library = import_module("compressed_tensors.quantization")
    try:
        config = library.QuantizationConfig.model_validate({**settings, "config_groups": groups})
    except (ValueError, TypeError, NotImplementedError) as reason:
        raise ModelError(
            f"quantization_config must be one that compressed-tensors reads, got {in_a_line(reason)} in {folder}; download it again"
        ) from reason
    _check_expressions(folder, config)
    if alone := [name for name, group in config.config_groups.items() if group.weights is None]:
        raise ModelError(
            f"a config group must quantize weights, got {', '.join(alone)} for activations alone in {folder}; "
            "choose another checkpoint"
        )
    return config


def _check_expressions(folder: Path, config: Any) -> None:
    """Raise ModelError for a regular expression that is none."""
    targets = [target for group in config.config_groups.values() for target in group.targets]
    for name in (*targets, *(config.ignore or ())):
        try:
            re.compile(name.removeprefix("re:") if name.startswith("re:") else "")
        except re.error as reason:
            raise ModelError(
                f"targets and ignore of config.json must hold regular expressions after re:, got {name!r} ({reason}) in {folder}; "
                "download it again"
            ) from reason


def _refuse_transforms(folder: Path, transforms: Settings) -> None:
    """Raise ModelError for rotations of activations, which the model would have to apply as it runs. Rotations of weights are stored in them."""
    online = sorted(
        {
            str(argument.get("location"))
            for scheme in (transforms.get("config_groups") or {}).values()
            for argument in scheme.get("apply") or ()
            if not str(argument.get("location")).startswith("weight_")
        }
    )
    if online:
        raise ModelError(
            "a checkpoint must compute what its architecture does, got one that rotates activations as it runs (QuIP or SpinQuant, "
            f"transform_config at {', '.join(online)}) in {folder}; such rotations are not applied here, choose another checkpoint"
        )


def _class_of(shape: PreTrainedModel, path: str) -> nn.Module:
    """Return a layer of the class that config groups know: experts and Conv1D are linear layers."""
    found = module_at(shape, path)
    return nn.Linear(1, 1, device="meta") if found is None or isinstance(found, Conv1D) else found


def _turned(shape: PreTrainedModel, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights of Conv1D layers (GPT-2) as `[N, K]`. Some writers store `[K, N]`, which only the shapes of all layers together show."""
    stored = {name: module_at(shape, name.removesuffix(".weight")) for name in weights}
    convs = {name: m.weight.shape for name, m in stored.items() if isinstance(m, Conv1D)}
    if any(weights[name].shape == size != size[::-1] for name, size in convs.items()):
        return {name: weights[name].T for name in convs}
    return {}


def _scheme(config: Any, path: str, module: nn.Module) -> Any:
    """Return the scheme of a layer, or None. An exact name wins over an expression, an expression over a class."""
    match = import_module("compressed_tensors.utils.match")
    if match.is_match(path, module, config.ignore or ()):
        return None
    schemes = {target: group for group in config.config_groups.values() for target in group.targets}
    found = match.match_targets(path, module, schemes)
    return schemes[found[0]] if found else None


def _activation(weights: Parts, path: str, side: str, args: Any) -> ActivationFormat:
    """Return what rounds the inputs or outputs of a layer, and take its tensors out of `weights`."""

    def stored(name: str, *, needed: bool) -> Tensor | None:
        tensor = weights.pop(f"{path}.{side}_{name}", None)
        if tensor is None and needed:
            raise ValueError(f"no {side}_{name}")
        return tensor

    is_static = args.dynamic is False
    blocks = BLOCKS.get(str(args.strategy))
    if blocks is None or (is_static and blocks != "tensor"):
        raise ValueError(f"{side}s with one {'static ' * is_static}scale a {args.strategy}")
    return ActivationFormat(
        kind=args.type,
        bits=args.num_bits,
        blocks=blocks,
        group_size=args.group_size or 0,
        symmetric=args.symmetric,
        scale=stored("scale", needed=True) if is_static else None,
        zero_point=stored("zero_point", needed=not args.symmetric) if is_static else None,
        outer_scale=stored("global_scale", needed=True)
        if args.strategy == "tensor_group"
        else None,
        is_mx=args.scale_dtype is torch.uint8,
    )


def _cache(
    folder: Path, args: Any, shape: PreTrainedModel, weights: Parts
) -> dict[str, CacheRounding]:
    """Return what rounds keys and values, and take its tensors out of `weights`."""
    if args is None:
        return {}
    if args.dynamic or args.strategy not in ("tensor", "attn_head"):
        raise ModelError(
            "a KV cache must have static scales, one a layer or a head, got "
            f"{'dynamic ' * bool(args.dynamic)}ones by {args.strategy} in {folder}; take kv_cache_scheme out of config.json"
        )
    found: dict[str, dict[str, ActivationFormat]] = defaultdict(dict)
    for side in "kv":
        for name in (f".{side}_", f".{side}_proj.output_"):
            for key in [key for key in weights if key.endswith(f"{name}scale")]:
                path = key.removesuffix(f"{name}scale")
                zero = weights.pop(f"{path}{name}zero_point", None)
                try:
                    found[path][side] = ActivationFormat(
                        kind=args.type,
                        bits=args.num_bits,
                        blocks="tensor",
                        symmetric=args.symmetric,
                        scale=weights.pop(key),
                        zero_point=zero,
                    )
                except ValueError as reason:
                    raise ModelError(
                        f"scales of a KV cache must be numbers above 0, got {reason} as {key} in {folder}; download it again"
                    ) from reason
    whole = [path for path, sides in found.items() if len(sides) == len("kv")]
    num_layers = sum(hasattr(module, "k_proj") for module in shape.modules())
    if len(whole) != len(found) or len(whole) != num_layers:
        raise ModelError(
            f"a checkpoint with a kv_cache_scheme must have k_scale and v_scale of every attention layer, got both for {len(whole)} of "
            f"{num_layers} in {folder}; take kv_cache_scheme out of config.json, or download it again"
        )
    return {path: CacheRounding(sides["k"], sides["v"]) for path, sides in found.items()}


def _check_all_quantized(
    folder: Path, config: Any, shape: PreTrainedModel, weights: Parts, layers: Iterable[str]
) -> None:
    """Raise ModelError for linear layers that config.json says are quantized, but the files hold in float."""
    # Float weights for a layer with a scheme mean that its codes were lost or never written.
    read = set(layers)
    floats = [
        path
        for path, module in shape.named_modules()
        if isinstance(module, nn.Linear)
        and path not in read
        and f"{path}.weight" in weights
        and _scheme(config, path, module) is not None
    ]
    if floats:
        raise ModelError(
            f"every layer that config.json says is quantized must have codes and scales, got {len(floats)} in float in {folder}, such as "
            f"{floats[0]}; name them in ignore, or download or convert it again"
        )
