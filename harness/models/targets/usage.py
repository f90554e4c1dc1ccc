"""What a model does with its parameters, found by running it once over a few tokens.

No attribute says reliably which parameters are matrices, which way they lie and whether a text run needs them: Llama 4 stores its experts
as [experts, in, out] and says so nowhere, Mamba reads the weight of a layer that it never calls, a multimodal model carries a
vision tower. So the float model runs once, and every operator that it calls is checked for parameters among its arguments (`weight_matmuls`).

A router is found the same way: an operator that chooses the largest values (`CHOICES`) gets the router's output, changed by elementwise
operators at most.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from harness.models.architecture import max_length
from harness.models.targets.weight_matmuls import OPERANDS, Operand, WeightMatmuls, storage, tensors

NUM_TOKENS = 32
"""Length of the sequence that the model runs over."""
CHOICES = {"aten::topk", "aten::max", "aten::argmax", "aten::sort"}
"""Operators that choose the largest."""
ELEMENTWISE = {
    *("aten::_to_copy", "aten::clone", "aten::add", "aten::sub", "aten::mul", "aten::div", "aten::neg"),
    *("aten::_softmax", "aten::_log_softmax", "aten::sigmoid", "aten::tanh", "aten::exp", "aten::softplus"),
    *("aten::relu", "aten::sqrt", "aten::masked_fill", "aten::where"),
}  # fmt: skip
"""Operators between the matmul of a router and its choice."""
MOST_ADDED = 4
"""Weights whose outputs may be added up before one choice. More of them are the residual stream, which no router is made of alone."""


@dataclass(kw_only=True, slots=True)
class Use:
    """What happened to one parameter."""

    operands: list[Operand] = field(default_factory=list)
    """How each matmul used it."""
    num_outside: int = 0
    """Matmuls outside of a call of any module that owns it, such as those of a parent that reads `.weight`."""
    operators: set[str] = field(default_factory=set)
    """Other operators that took it, such as `embedding` or `mul`."""
    is_router: bool = False
    """An operator chose the largest of its outputs."""
    is_asleep: bool = False
    """None of the modules that own it was called."""

    @property
    def is_used(self) -> bool:
        """Some operator of a text run takes it."""
        return bool(self.operands or self.operators)


Usage = Mapping[str, Use]
"""Use by parameter name; a shared parameter stands under each of its names."""

_known: WeakKeyDictionary[nn.Module, Usage] = WeakKeyDictionary()


def usage_of(module: PreTrainedModel) -> Usage:
    """Return what a float model does with its parameters. The model runs at the first call for it; later calls return the same result."""
    if module not in _known:
        _known[module] = _run(module)
    return _known[module]


def _run(module: PreTrainedModel) -> Usage:
    names: dict[int, list[str]] = defaultdict(list)
    owners: dict[str, list[nn.Module]] = defaultdict(list)
    first: dict[str, Tensor] = {}
    for path, owner in module.named_modules(remove_duplicate=False):
        for attribute, parameter in owner.named_parameters(recurse=False):
            name = f"{path}.{attribute}" if path else attribute
            names[id(parameter)].append(name)
            first[names[id(parameter)][0]] = parameter
            owners[names[id(parameter)][0]].append(owner)
    ids = _tokens(module)
    with _called(module) as active:
        probe = _Probe(first, {name: owners[name] for name in first}, active)
        with torch.inference_mode(mode=False), torch.no_grad(), probe:
            module(ids, use_cache=False)
    for name, use in probe.uses.items():
        use.is_asleep = not any(owner in active for owner in owners[name])
    uses = {name: probe.uses[each[0]] for each in names.values() for name in each}
    _share_among_siblings(module, uses)
    return uses


def _tokens(module: PreTrainedModel) -> Tensor:
    """Return token ids `[1, S]` spread over the vocabulary, none of which stands for an image or a sound."""
    table: Any = module.get_input_embeddings().weight
    config = module.config.to_dict()
    special = set(_special_ids(config))
    plain = [i for i in range(len(table)) if i not in special]
    limit = max_length(module) or NUM_TOKENS
    count = min(NUM_TOKENS, limit, len(plain))
    chosen = [plain[(2 * i + 1) * len(plain) // (2 * count)] for i in range(count)]
    return torch.tensor([chosen], device=table.device)


def _special_ids(config: Mapping[str, Any]) -> Iterator[int]:
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _special_ids(value)
        elif isinstance(value, int) and key.endswith(("_token_id", "_token_index")):
            yield value


@contextmanager
def _called(module: nn.Module) -> Iterator[dict[nn.Module, int]]:
    """Count, for each module, the calls of it that have not returned yet."""
    active: dict[nn.Module, int] = defaultdict(int)

    def enter(owner: nn.Module, _: Any) -> None:
        active[owner] += 1

    def leave(owner: nn.Module, _: Any, __: Any) -> None:
        active[owner] -= 1

    with ExitStack() as hooks:
        for owner in module.modules():
            for handle in (
                owner.register_forward_pre_hook(enter, prepend=True),
                owner.register_forward_hook(leave, always_call=True),
            ):
                hooks.callback(handle.remove)
        yield active


class _Probe(WeightMatmuls):  # type: ignore[no-untyped-call]
    """Writes down what happens to each weight."""

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        owners: Mapping[str, list[nn.Module]],
        active: Mapping[nn.Module, int],
    ) -> None:
        super().__init__(weights, self._record)
        self.uses: dict[str, Use] = {name: Use() for name in weights}
        self._owners, self._active = owners, active
        self._multiplied: dict[str, int] = {}
        self._outputs: dict[int, dict[str, int]] = {}

    def _record(self, operand: Operand, x: Tensor) -> Tensor:
        use = self.uses[operand.key]
        use.operands.append(operand)
        use.num_outside += not any(self._active[owner] for owner in self._owners[operand.key])
        self._multiplied[operand.key] = operand.num_free
        return x

    def observe(self, name: str, given: Any, result: Any) -> None:
        """Note which other operators take a weight, and follow outputs of matmuls to a choice of the largest."""
        super().observe(name, given, result)
        places = {storage(x) for x in tensors(given)}
        is_view = all(storage(x) in places for x in tensors(result))
        # A view only reads the shape of a weight; whatever takes the view is seen later.
        if not is_view:
            multiplied = {id(given[0][place]) for place in OPERANDS.get(name, ())}
            for x in tensors(given):
                if id(x) not in multiplied and (memory := self.memory(x)):
                    self.uses[memory.key].operators.add(name.partition("::")[2])
        self._follow(name, places, given, result)

    def _follow(self, name: str, places: set[int], given: Any, result: Any) -> None:
        # Weights that the result is an output of, with their number of outputs.
        sources: dict[str, int] = {}
        if name in OPERANDS:
            sources, self._multiplied = self._multiplied, {}
        elif name in ELEMENTWISE | CHOICES:
            for place in places:
                sources |= self._outputs.get(place, {})
        if name in CHOICES:
            self._choose(sources, given)
            sources = {}
        for made in tensors(result):
            if (place := storage(made)) not in places:
                self._outputs.pop(place, None)
                if 0 < len(sources) <= MOST_ADDED:
                    self._outputs[place] = sources

    def _choose(self, sources: Mapping[str, int], given: Any) -> None:
        """Mark as routers the weights with as many outputs as the operator chooses among; other operators choose among tokens."""
        among = next(tensors(given)).shape
        for key, num_outputs in sources.items():
            if num_outputs > 1 and num_outputs in among[-1:]:
                self.uses[key].is_router = True


def _share_among_siblings(module: nn.Module, uses: dict[str, Use]) -> None:
    """Give experts in a list of modules that got no token the use of a sibling that got some."""
    for path, owner in module.named_modules():
        if not isinstance(owner, nn.ModuleList | nn.ModuleDict):
            continue
        children = {f"{path}.{name}": child for name, child in owner.named_children()}
        used = {name: [key for key in uses if key.startswith(f"{name}.")] for name in children}
        ran = [name for name, keys in used.items() if any(uses[key].is_used for key in keys)]
        for name, child in children.items():
            like = next((other for other in ran if type(children[other]) is type(child)), None)
            if name in ran or like is None:
                continue
            for key in used[name]:
                uses[key] = uses.get(key.replace(name, like, 1), uses[key])
