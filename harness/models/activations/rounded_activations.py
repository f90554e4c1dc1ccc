"""Make a model with dequantized weights round activations as its checkpoint does.

    linear layers     hooks round what goes in and what comes out
    experts           transformers keeps them in stacks [E, N, K]. The stack gets a forward that
                      computes one expert at a time, so that each token is rounded in the format of
                      its own expert
    keys and values   rounded once, after the rotary positions, when the cache takes them

Paths are those of the files. `_locate` finds each one in the model.
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
from harness.models.checkpoints.methods.dequantized import (
    ActivationRounding,
    CacheRounding,
    Dequantized,
)
from harness.models.targets.targets import output_layer
from harness.models.targets.usage import usage_of


def round_activations(module: PreTrainedModel, checkpoint: Dequantized) -> None:
    """Install the roundings of a checkpoint in its model.

    Raises:
        ModelError: The checkpoint rounds activations of the LM head, outputs of an expert, or
            activations of a layer that the model does not have.
    """
    head = output_layer(module)
    names = dict(module.named_parameters(remove_duplicate=False))
    stacks: dict[str, dict[str, dict[tuple[int, int], ActivationRounding]]] = defaultdict(
        lambda: defaultdict(dict)
    )
    for path, rounding in checkpoint.inputs.items():
        place = _locate(module, names, path)
        if place.expert is not None:
            stacks[place.path][place.parameter][place.expert, place.part] = rounding
            continue
        layer = module.get_submodule(place.path)
        if layer is head:
            raise ModelError(
                "the LM head must have unquantized activations, because logits are computed in "
                "float32, got a head that rounds them; add lm_head to the ignored layers of the "
                "checkpoint"
            )
        layer.register_forward_pre_hook(_on_input(rounding), with_kwargs=True)
    for path, rounding in checkpoint.outputs.items():
        place = _locate(module, names, path)
        if place.expert is not None or module.get_submodule(place.path) is head:
            raise ModelError(
                f"outputs can be rounded for linear layers other than the LM head, got {path}; "
                "choose another checkpoint"
            )
        module.get_submodule(place.path).register_forward_hook(_on_output(rounding))
    for path, stack in stacks.items():
        _round_experts(path, module.get_submodule(path), stack)
    for path, pair in checkpoint.cache.items():
        # Any projection of the attention layer leads to its module.
        place = _locate(module, names, f"{path}.k_proj")
        attention = module.get_submodule(place.path.rpartition(".")[0])
        attention.register_forward_pre_hook(_on_cache(pair), with_kwargs=True)


class _Location(NamedTuple):
    """A layer of the files, in the model."""

    path: str
    """Path of the linear layer, or of the module that owns the stack of experts."""
    parameter: str
    expert: int | None
    """Index in the stack; None for a linear layer."""
    part: int
    """Index of the matrix in a parameter that joins several, such as 0 for gate and 1 for up."""


def _locate(module: PreTrainedModel, names: dict[str, nn.Parameter], path: str) -> _Location:
    """Find a layer of the files in the model, by the rules that transformers loads weights by."""
    name, source, converters = _loaded_as(module, names, f"{path}.weight")
    owner, _, parameter = name.rpartition(".")
    if name not in names:
        raise ModelError(
            "every layer whose activations the checkpoint rounds must be in the model, got "
            f"{path}, which the model does not have; download or convert the checkpoint again"
        )
    if source is None:
        return _Location(owner, parameter, None, 0)
    converter = next(rule for rule in converters if source in rule.source_patterns)
    # In the path, the number of the decoder layer comes first and that of the expert last.
    numbers = re.findall(r"\.(\d+)(?=\.)", path)
    if names[name].dim() != 3 or not numbers:
        raise ModelError(
            f"activations can be rounded for linear layers and stacks of experts, got {path}, "
            f"which the model keeps in {name}; choose another checkpoint"
        )
    return _Location(owner, parameter, int(numbers[-1]), converter.source_patterns.index(source))


def num_unused_of(module: PreTrainedModel, stored: Mapping[str, int]) -> int:
    """Return how many stored parameters a text run does not need.

    Args:
        module: The model.
        stored: Number of parameters of each stored weight, by its name in the files.
    """
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
    """Return the parameter that a stored weight is loaded into.

    Returns:
        Its name in the model; the pattern that the stored name matches, if the parameter joins
        several stored weights; the rules that join weights.
    """
    rules: Any = getattr(module, "_weight_conversions", None) or []
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    name, source = rename_source_key(stored, renamings, converters, module.base_model_prefix, names)
    return name, source, converters


def _on_input(rounding: ActivationRounding) -> Any:
    def hook(_: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> Any:
        if args:
            return (rounding(args[0]), *args[1:]), kwargs
        return args, kwargs | {"input": rounding(kwargs["input"])}

    return hook


def _on_output(rounding: ActivationRounding) -> Any:
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
    """A KV cache, or none, that rounds keys and values before it stores them."""

    def __init__(self, cache: Any, pair: CacheRounding) -> None:
        self._cache, self._pair = cache, pair

    def update(self, keys: Tensor, values: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Return all keys and values of the layer so far, the new ones rounded."""
        keys, values = self._pair.keys(keys), self._pair.values(values)
        if self._cache is None:
            return keys, values
        return self._cache.update(keys, values, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)


def _round_experts(
    path: str,
    experts: Any,
    roundings: Mapping[str, Mapping[tuple[int, int], ActivationRounding]],
) -> None:
    """Give a stack of experts a forward that rounds the activation of every matrix."""
    up = "gate_up_proj" if getattr(experts, "has_gate", False) else "up_proj"
    known = hasattr(experts, "_apply_gate") and not (
        experts.is_transposed or experts.has_bias or experts.has_post_expert_norm
    )
    num_parts = {up: 2 if up == "gate_up_proj" else 1, "down_proj": 1}
    # The forward below computes `x W^T` of gate, up and down without biases, like the class's own.
    if not known or not experts.is_concatenated or roundings.keys() != num_parts.keys():
        raise ModelError(
            "activations of experts can be rounded in stacks [experts, out, in] of gate, up and "
            f"down, got {type(experts).__name__} at {path}; choose another checkpoint"
        )
    for name, count in num_parts.items():
        expected = {(e, part) for e in range(experts.num_experts) for part in range(count)}
        if lacking := expected - roundings[name].keys():
            raise ModelError(
                "activations must be rounded for every expert or for none, got "
                f"{len(lacking)} of {len(expected)} matrices without rounding in {path}.{name}; "
                "choose another checkpoint"
            )

    def matmul(name: str, expert: int, x: Tensor) -> Tensor:
        # Gate and up are one parameter, but each may have its own static scale.
        parts = getattr(experts, name)[expert].chunk(num_parts[name])
        rounded = [roundings[name][expert, part](x) for part in range(len(parts))]
        return torch.cat([F.linear(*pair) for pair in zip(rounded, parts, strict=True)], -1)

    def forward(_: nn.Module, hidden: Tensor, index: Tensor, weights: Tensor) -> Tensor:
        total = torch.zeros_like(hidden)
        # In ascending order: a token's experts are summed in the same order in every batch.
        for expert in sorted(set(index.flatten().tolist())):
            token, choice = torch.where(index == expert)
            middle = matmul(up, expert, hidden[token])
            middle = experts._apply_gate(middle) if experts.has_gate else experts.act_fn(middle)  # noqa: SLF001 - its own interface
            out = matmul("down_proj", expert, middle) * weights[token, choice, None]
            total.index_add_(0, token, out.to(total.dtype))
        return total

    experts.forward = MethodType(forward, experts)
