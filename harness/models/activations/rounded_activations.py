"""Let a float model with the dequantized weights of a checkpoint round the activations that the checkpoint rounds.

Paths are those of the files.

linear layers      hooks round inputs and outputs
experts            transformers stacks them into [E, N, K] parameters; they get a forward that computes one expert at a time, so that
                   each token is rounded in the format of its own expert
keys and values    rounded once, after the rotary positions, when the cache takes them
"""

import re
from collections import defaultdict
from collections.abc import Mapping
from types import MethodType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

from harness.errors import ModelError
from harness.models.checkpoints.dequantized import CacheRounding, Dequantized, Rounding
from harness.models.targets.targets import output_layer
from harness.models.targets.usage import usage_of


def round_activations(module: PreTrainedModel, checkpoint: Dequantized) -> None:
    """Let a model round what its checkpoint rounds.

    Raises:
        ModelError: The output layer, an expert's output or a layer that the model does not have would be rounded.
    """
    head = output_layer(module)
    names = dict(module.named_parameters(remove_duplicate=False))
    stacks: dict[str, dict[str, dict[tuple[int, int], Rounding]]] = defaultdict(
        lambda: defaultdict(dict)
    )
    for path, rounding in checkpoint.inputs.items():
        place = _place(module, names, path)
        if place.expert is not None:
            stacks[place.path][place.parameter][place.expert, place.part] = rounding
            continue
        layer = module.get_submodule(place.path)
        if layer is head:
            raise ModelError(
                "the output layer must take float inputs to be scored in float32, got one that rounds its inputs; "
                "add lm_head to the ignored layers of the checkpoint"
            )
        layer.register_forward_pre_hook(_on_input(rounding), with_kwargs=True)
    for path, rounding in checkpoint.outputs.items():
        place = _place(module, names, path)
        if place.expert is not None or module.get_submodule(place.path) is head:
            raise ModelError(
                f"outputs are rounded for linear layers below the output layer, got {path}; choose another checkpoint"
            )
        module.get_submodule(place.path).register_forward_hook(_on_output(rounding))
    for path, stack in stacks.items():
        _round_experts(path, module.get_submodule(path), stack)
    for path, pair in checkpoint.cache.items():
        place = _place(module, names, f"{path}.k_proj")
        attention = module.get_submodule(place.path.rpartition(".")[0])
        attention.register_forward_pre_hook(_on_cache(pair), with_kwargs=True)


class _Place(NamedTuple):
    """Where a layer of the files is in the model."""

    path: str
    """Of the linear layer, or of the module with the stack of experts."""
    parameter: str
    expert: int | None
    part: int
    """Index of the matrix in a parameter that joins several: the gate is 0, up is 1."""


def _place(module: PreTrainedModel, names: dict[str, nn.Parameter], path: str) -> _Place:
    """Return where a layer of the files is in the model, by the rules that transformers loaded its weight by."""
    name, source, converters = _loaded_as(module, names, f"{path}.weight")
    owner, _, parameter = name.rpartition(".")
    if name not in names:
        raise ModelError(
            f"every layer whose activations the checkpoint rounds must be in the model, got {path}, which it lacks; "
            "download or convert the checkpoint again"
        )
    if source is None:
        return _Place(owner, parameter, None, 0)
    converter = next(rule for rule in converters if source in rule.source_patterns)
    # The path has the number of the decoder layer first, that of the expert last.
    numbers = re.findall(r"\.(\d+)(?=\.)", path)
    if names[name].dim() != 3 or not numbers:
        raise ModelError(
            f"activations are rounded for linear layers and stacks of experts, got {path}, which the model keeps in {name}; "
            "choose another checkpoint"
        )
    return _Place(owner, parameter, int(numbers[-1]), converter.source_patterns.index(source))


def num_unused_of(module: PreTrainedModel, stored: Mapping[str, int]) -> int:
    """Return how many of the parameters in stored weights, by their names in the files, a text run does not need."""
    usage, names = usage_of(module), dict(module.named_parameters(remove_duplicate=False))
    unused = {name for name, use in usage.items() if not use.is_used}
    return sum(
        count
        for name, count in stored.items()
        if unused and _loaded_as(module, names, name)[0] in unused
    )


def _loaded_as(
    module: PreTrainedModel, names: dict[str, nn.Parameter], stored: str
) -> tuple[str, str | None, list[WeightConverter]]:
    """Return the parameter that a stored weight became, and what made it one of several in there."""
    rules: Any = getattr(module, "_weight_conversions", None) or []
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    name, source = rename_source_key(stored, renamings, converters, module.base_model_prefix, names)
    return name, source, converters


def _on_input(rounding: Rounding) -> Any:
    def hook(_: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> Any:
        if args:
            return (rounding(args[0]), *args[1:]), kwargs
        return args, kwargs | {"input": rounding(kwargs["input"])}

    return hook


def _on_output(rounding: Rounding) -> Any:
    def hook(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        return rounding(output)

    return hook


def _on_cache(pair: CacheRounding) -> Any:
    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return args, kwargs | {
            "past_key_values": _RoundedCache(kwargs.get("past_key_values"), pair)
        }

    return hook


class _RoundedCache:
    """A cache, or none, that rounds keys and values before it takes them."""

    def __init__(self, cache: Any, pair: CacheRounding) -> None:
        self._cache, self._pair = cache, pair

    def update(self, keys: Tensor, values: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Return all keys and values of the layer so far."""
        keys, values = self._pair.keys(keys), self._pair.values(values)
        if self._cache is None:
            return keys, values
        return self._cache.update(keys, values, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)


def _round_experts(
    path: str,
    experts: Any,
    roundings: Mapping[str, Mapping[tuple[int, int], Rounding]],
) -> None:
    """Replace the forward of a stack of experts by one that rounds the inputs of every matrix, one expert at a time."""
    up = "gate_up_proj" if getattr(experts, "has_gate", False) else "up_proj"
    known = hasattr(experts, "_apply_gate") and not (
        experts.is_transposed or experts.has_bias or experts.has_post_expert_norm
    )
    num_parts = {up: 2 if up == "gate_up_proj" else 1, "down_proj": 1}
    if not known or not experts.is_concatenated or roundings.keys() != num_parts.keys():
        raise ModelError(
            f"inputs of experts are rounded in stacks [experts, out, in] of gate, up and down, got {type(experts).__name__} at {path}; "
            "choose another checkpoint"
        )
    for name, count in num_parts.items():
        expected = {(e, part) for e in range(experts.num_experts) for part in range(count)}
        if lacking := expected - roundings[name].keys():
            raise ModelError(
                f"inputs must be rounded for every expert or for none, got {len(lacking)} of {len(expected)} in float in {path}.{name}; "
                "choose another checkpoint"
            )

    def matmul(name: str, expert: int, x: Tensor) -> Tensor:
        # Gate and up are one parameter, but may round their inputs with static scales of their own.
        parts = getattr(experts, name)[expert].chunk(num_parts[name])
        rounded = [roundings[name][expert, part](x) for part in range(len(parts))]
        return torch.cat([F.linear(*pair) for pair in zip(rounded, parts, strict=True)], -1)

    def forward(_: nn.Module, hidden: Tensor, index: Tensor, weights: Tensor) -> Tensor:
        total = torch.zeros_like(hidden)
        for expert in sorted(set(index.flatten().tolist())):
            token, choice = torch.where(index == expert)
            middle = matmul(up, expert, hidden[token])
            middle = experts._apply_gate(middle) if experts.has_gate else experts.act_fn(middle)  # noqa: SLF001 - its own interface
            out = matmul("down_proj", expert, middle) * weights[token, choice, None]
            total.index_add_(0, token, out.to(total.dtype))
        return total

    experts.forward = MethodType(forward, experts)
