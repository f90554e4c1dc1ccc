"""What a model does with each of its parameters, found by running it once over a few tokens.

No attribute tells reliably which parameters are matrices, how they lie, and whether a text run
needs them. Llama 4 stores experts as [experts, in, out] without saying so; Mamba reads the weight
of a layer that it never calls; a multimodal model carries a vision tower. So the model runs, and a
dispatch mode looks at the arguments of every operator.

1. `_tokens` chooses at most 32 token ids, spread over the vocabulary, without image or sound
   tokens.
2. `_calls` counts, for each module, the calls that have not returned. A matmul outside of every
   call of the weight's owners cannot be changed by a hook (`Use.num_outside`).
3. `_Probe` notes each matmul of a weight (`Use.operands`) and every other operator
   (`Use.operators`).
4. A weight is a router if an operator chooses the largest of its outputs (`CHOICE_OPERATORS`).
   Between matmul and choice there may be elementwise operators (`ELEMENTWISE`), and sums of a few
   such outputs.
5. An expert that gets none of the 32 tokens takes over what a sibling of the same class does.
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
from harness.models.targets.weight_matmuls import (
    OPERAND_PLACES,
    Operand,
    WeightMatmuls,
    storage,
    tensors,
)

NUM_TOKENS = 32
"""Most tokens of the run."""
CHOICE_OPERATORS = {"aten::topk", "aten::max", "aten::argmax", "aten::sort"}
"""Operators that choose the largest values."""
ELEMENTWISE = {
    *("aten::_to_copy", "aten::clone", "aten::add", "aten::sub", "aten::mul", "aten::div"),
    *("aten::neg", "aten::_softmax", "aten::_log_softmax", "aten::sigmoid", "aten::tanh"),
    *("aten::exp", "aten::softplus"),
    *("aten::relu", "aten::sqrt", "aten::masked_fill", "aten::where"),
}  # fmt: skip
"""Operators that may stand between the matmul of a router and the choice."""
MOST_ADDED = 4
"""Most weights whose outputs may be added before a choice. A sum of more is the residual stream."""


@dataclass(kw_only=True, slots=True)
class Use:
    """What one text run does with one parameter."""

    operands: list[Operand] = field(default_factory=list)
    """Its matmuls."""
    num_outside: int = 0
    """Number of matmuls outside of any call of an owner, such as in a parent that reads
    `.weight`."""
    operators: set[str] = field(default_factory=set)
    """Other operators that take it, such as `embedding` or `mul`."""
    is_router: bool = False
    """Whether an operator chooses the largest of its outputs."""
    is_asleep: bool = False
    """Whether none of the modules that own it is called."""

    @property
    def is_used(self) -> bool:
        """Whether a text run needs the parameter: some operator takes it."""
        return bool(self.operands or self.operators)


Usage = Mapping[str, Use]
"""Uses by parameter name. A shared parameter is listed under each of its names."""

_usages: WeakKeyDictionary[nn.Module, Usage] = WeakKeyDictionary()


def usage_of(module: PreTrainedModel) -> Usage:
    """Return what an unquantized model does with its parameters; the first call runs the model."""
    if module not in _usages:
        _usages[module] = _watch_run(module)
    return _usages[module]


def _watch_run(module: PreTrainedModel) -> Usage:
    # Parameters with all their names and owners. A shared one is watched under its first name.
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
    with _calls(module) as active:
        probe = _Probe(first, {name: owners[name] for name in first}, active)
        # Below inference mode, so that torch takes composite operators apart before the probe.
        with torch.inference_mode(mode=False), torch.no_grad(), probe:
            module(ids, use_cache=False)
    for name, use in probe.uses.items():
        use.is_asleep = not any(owner in active for owner in owners[name])
    uses = {name: probe.uses[each[0]] for each in names.values() for name in each}
    _share_among_siblings(module, uses)
    return uses


def _tokens(module: PreTrainedModel) -> Tensor:
    """Return token ids `[1, S]` spread over the vocabulary, without the ids of images and sound."""
    table: Any = module.get_input_embeddings().weight
    config = module.config.to_dict()
    special = set(_special_ids(config))
    plain = [i for i in range(len(table)) if i not in special]
    limit = max_length(module) or NUM_TOKENS
    count = min(NUM_TOKENS, limit, len(plain))
    # The middles of `count` equal parts of the vocabulary.
    chosen = [plain[(2 * i + 1) * len(plain) // (2 * count)] for i in range(count)]
    return torch.tensor([chosen], device=table.device)


def _special_ids(config: Mapping[str, Any]) -> Iterator[int]:
    """Yield every token id that a configuration names, those of its parts included."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _special_ids(value)
        elif isinstance(value, int) and key.endswith(("_token_id", "_token_index")):
            yield value


@contextmanager
def _calls(module: nn.Module) -> Iterator[dict[nn.Module, int]]:
    """Context manager: for each module, the number of its calls that have not returned yet."""
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
    """Collects a `Use` for each weight."""

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        owners: Mapping[str, list[nn.Module]],
        active: Mapping[nn.Module, int],
    ) -> None:
        super().__init__(weights, self._record)
        self.uses: dict[str, Use] = {name: Use() for name in weights}
        self._owners, self._active = owners, active
        self._multiplied: dict[str, int] = {}  # number of outputs, by weight of the current matmul
        self._outputs: dict[int, dict[str, int]] = {}  # the same, by memory of an operator's result

    def _record(self, operand: Operand, x: Tensor) -> Tensor:
        use = self.uses[operand.key]
        use.operands.append(operand)
        use.num_outside += not any(self._active[owner] for owner in self._owners[operand.key])
        self._multiplied[operand.key] = operand.num_free
        return x

    def observe(self, name: str, given: Any, result: Any) -> None:
        """Note other operators that take a weight, and follow outputs of matmuls to a choice."""
        super().observe(name, given, result)
        places = {storage(x) for x in tensors(given)}
        is_view = all(storage(x) in places for x in tensors(result))
        # A view of a weight is no use of it. The operator that takes the view comes later.
        if not is_view:
            multiplied = {id(given[0][place]) for place in OPERAND_PLACES.get(name, ())}
            for x in tensors(given):
                if id(x) not in multiplied and (memory := self.memory(x)):
                    self.uses[memory.key].operators.add(name.partition("::")[2])
        self._follow(name, places, given, result)

    def _follow(self, name: str, places: set[int], given: Any, result: Any) -> None:
        """Pass the weights that the arguments are outputs of on to the result."""
        sources: dict[str, int] = {}
        if name in OPERAND_PLACES:
            sources, self._multiplied = self._multiplied, {}
        elif name in ELEMENTWISE | CHOICE_OPERATORS:
            for place in places:
                sources |= self._outputs.get(place, {})
        if name in CHOICE_OPERATORS:
            self._choose(sources, given)
            sources = {}
        for made in tensors(result):
            if (place := storage(made)) not in places:
                self._outputs.pop(place, None)
                if 0 < len(sources) <= MOST_ADDED:
                    self._outputs[place] = sources

    def _choose(self, sources: Mapping[str, int], given: Any) -> None:
        """Mark as routers the weights with exactly the outputs that an operator chooses among."""
        # An operator that chooses along another axis chooses among tokens.
        among = next(tensors(given)).shape
        for key, num_outputs in sources.items():
            if num_outputs > 1 and num_outputs in among[-1:]:
                self.uses[key].is_router = True


def _share_among_siblings(module: nn.Module, uses: dict[str, Use]) -> None:
    """Give an expert in a list of modules that got no token the uses of a sibling that got some."""
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
