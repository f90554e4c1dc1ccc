"""List the weights of a model that can be quantized, each as a matrix.

A target is a parameter that the model multiplies activations with, or its token embedding. A recipe
sees it as a matrix `[N, K]` or a stack of matrices `[E, N, K]`, with N outputs and K inputs,
however the model stores it: GPT-2's Conv1D is `[K, N]`, the experts of Llama 4 are `[E, K, N]`.

Every other parameter with two or more axes is reported with a reason, so that no weight is left out
silently.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from harness.models.targets.usage import Use, usage_of
from harness.models.targets.weight_layout import WeightLayout, is_linear, weight_layout

COPYING = {"_to_copy", "clone", "index", "index_select"}
"""Operators that copy a parameter. They do not tell what it is used for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """A weight that a recipe may quantize."""

    name: str
    """Module path, such as `model.layers.0.mlp.up_proj`; of stacks and the like with the
    parameter's name."""
    owner: nn.Module
    attribute: str
    alias: str | None = None
    """`lm_head`, `embed_tokens`, or `router` (also gates of shared experts), for every
    architecture."""
    tied_to: str | None = None
    """Name of an earlier target that has the same parameter."""
    layout: WeightLayout | None = None
    """How to view the parameter as a matrix or stack; None if it is stored as one."""
    called: bool = True
    """Every matmul with it runs inside a call of a module that owns it, where a hook can act."""
    shared: tuple["Target", ...] = ()
    """Later targets with the same parameter. They are quantized together with this one."""

    @property
    def weight(self) -> nn.Parameter:
        """The parameter that is in place now, quantized or not."""
        parameter: nn.Parameter = getattr(self.owner, self.attribute)
        return parameter

    @property
    def matrix(self) -> Tensor:
        """The weight that is in place now, as a view `[N, K]` or `[E, N, K]`."""
        weight = self.weight.detach()
        if self.layout is None:
            return weight
        matrix = weight.view(self.layout.shape)
        return matrix.mT if self.layout.transposed else matrix

    def stored(self, matrix: Tensor) -> Tensor:
        """Return a matrix or a stack in the memory layout of the parameter."""
        if self.layout is None:
            return matrix
        turned = matrix.mT if self.layout.transposed else matrix
        return turned.reshape(self.weight.shape).contiguous()

    @property
    def transposed(self) -> bool:
        """Whether the last axis of the parameter is the one of the outputs."""
        return self.layout is not None and self.layout.transposed

    @property
    def linear(self) -> nn.Linear | None:
        """The layer as an `nn.Linear` with the same parameters; None if it computes otherwise."""
        owner = self.owner
        if not is_linear(owner) or self.attribute != "weight" or not _computes_as_linear(self):
            return None
        if isinstance(owner, nn.Linear):
            return owner
        rows, columns = self.matrix.shape
        made = nn.Linear(columns, rows, bias=False, device="meta")
        made.weight = nn.Parameter(self.matrix, requires_grad=False)
        made.bias = owner.bias  # type: ignore[assignment]
        return made

    def matches(self, pattern: str) -> bool:
        """Return whether a glob matches the name, or `pattern` is the alias."""
        return fnmatchcase(self.name, pattern) or self.alias == pattern


class Other(NamedTuple):
    """A parameter with two or more axes that is no target."""

    name: str
    parameter: nn.Parameter
    reason: str
    is_used: bool
    """Whether a text run needs it."""
    is_asleep: bool
    """Whether a text run calls none of the modules that own it."""

    def matches(self, pattern: str) -> bool:
        """Return whether a glob matches its name, or the path of the module whose weight it is."""
        return any(fnmatchcase(n, pattern) for n in (self.name, self.name.removesuffix(".weight")))


def output_layer(module: PreTrainedModel) -> nn.Module:
    """Return the layer that computes logits, `lm_head` in most architectures."""
    head: nn.Module = module.get_output_embeddings()  # type: ignore[no-untyped-call]
    return head


@torch.no_grad()
def _computes_as_linear(target: Target) -> bool:
    """Return whether a layer computes `x W^T + b` alone; a subclass may not."""
    owner = target.owner
    if type(owner).forward in (nn.Linear.forward, Conv1D.forward):
        return True
    weight, bias = target.matrix, owner.bias
    x = torch.randn(4, weight.shape[1], generator=torch.Generator().manual_seed(0)).to(weight)
    try:
        found = type(owner).forward(owner, x)
    except (RuntimeError, TypeError, ValueError):
        return False
    expected = nn.functional.linear(x, weight, bias)  # type: ignore[arg-type]
    # Each side rounds once to the type of the weight (eps each), after a float32 sum of K terms in
    # an order of its own (sqrt(K) eps if the errors are independent).
    eps = 2 * torch.finfo(weight.dtype).eps + torch.finfo(torch.float32).eps * x.shape[1] ** 0.5
    bound = eps * float(expected.norm())
    return (
        isinstance(found, Tensor)
        and found.shape == expected.shape
        and float((found - expected).norm()) <= bound
    )


def find_targets(module: PreTrainedModel) -> list[Target]:
    """Return all targets, in the order of modules. The first call runs the model once."""
    usage, embedding = usage_of(module), module.get_input_embeddings()
    aliases = {
        id(embedding): "embed_tokens",
        id(output_layer(module)): "lm_head",
    }
    targets: list[Target] = []
    seen: dict[int, str] = {}
    for path, owner, attribute, parameter in _parameters(module):
        use = usage.get(f"{path}.{attribute}", Use())
        layout = weight_layout(owner, attribute, parameter, use)
        if owner is embedding and attribute == "weight":
            layout = WeightLayout(tuple(parameter.shape), transposed=False)
        if layout is None:
            continue
        is_layer = attribute == "weight" and (is_linear(owner) or owner is embedding)
        name = path if is_layer else f"{path}.{attribute}"
        targets.append(
            Target(
                name=name,
                owner=owner,
                attribute=attribute,
                alias=aliases.get(id(owner)) or ("router" if _is_router(name, use) else None),
                tied_to=seen.get(id(parameter)),
                layout=None if layout == (tuple(parameter.shape), False) else layout,
                called=bool(use.operands) and not use.num_outside,
            )
        )
        seen.setdefault(id(parameter), name)
    return _with_gates(targets)


def find_others(module: PreTrainedModel) -> list[Other]:
    """Return the parameters with two or more axes that no recipe can quantize."""
    usage = usage_of(module)
    reachable = {id(target.weight) for target in find_targets(module)}
    found = []
    for name, parameter in module.named_parameters():
        if parameter.dim() < 2 or id(parameter) in reachable:
            continue
        use = usage.get(name, Use())
        found.append(Other(name, parameter, _why_no_target(use), use.is_used, use.is_asleep))
    return found


def find_unreachable(module: PreTrainedModel) -> dict[str, nn.Parameter]:
    """Return the parameters of `find_others`, by name."""
    return {other.name: other.parameter for other in find_others(module)}


def num_unused(module: PreTrainedModel) -> int:
    """Return the number of parameters that a text run does not need, such as a vision tower's."""
    usage = usage_of(module)
    named = module.named_parameters()
    return sum(p.numel() for name, p in named if name in usage and not usage[name].is_used)


def _parameters(module: nn.Module) -> Iterator[tuple[str, nn.Module, str, nn.Parameter]]:
    for path, owner in module.named_modules():
        for attribute, parameter in owner.named_parameters(recurse=False):
            yield path, owner, attribute, parameter


def _is_router(name: str, use: Use) -> bool:
    return use.is_router or "router" in name.split(".")


def _with_gates(targets: Sequence[Target]) -> list[Target]:
    """Give gates of shared experts the alias `router`: one output, in the block of a router."""
    routers = [target.name for target in targets if target.alias == "router"]
    others = [target.name for target in targets if target.alias is None]
    blocks = {block for name in routers if (block := _block(name, others))}
    return [
        replace(target, alias="router")
        if target.alias is None
        and target.matrix.shape[:-1] == (1,)
        and any(target.name.startswith(block) for block in blocks)
        else target
        for target in targets
    ]


def _block(router: str, others: Sequence[str]) -> str | None:
    """Return the path, with a dot, of the innermost module with a router and other weights."""
    path = router
    while path := path.rpartition(".")[0]:
        if any(name.startswith(f"{path}.") for name in others):
            return f"{path}."
    return None


def _why_no_target(use: Use) -> str:
    """Return why a parameter is no target. Records hold this text."""
    if not use.is_used:
        return "not used by a text run"
    if use.operands:
        return "multiplied along other axes than a matrix, or a stack of them, has"
    others = ", ".join(sorted(use.operators - COPYING)) or "copies"
    return f"no matmul has it as an operand, only: {others}"
