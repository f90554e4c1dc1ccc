"""Which weights of a model can be quantized, and which way they lie.

A target is a parameter that the model multiplies activations with, or its token embedding. Every one is seen as a matrix `[N, K]` or a
stack of matrices `[E, N, K]`, N output and K input features, however it is stored: a Conv1D of GPT-2 lies as `[K, N]`, the
experts of Llama 4 as `[E, K, N]`. `usage` asks the model. What has two axes or more and is no target is reported too, with the
reason, so that no weight is left out unseen.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from harness.models.usage import Use, usage_of
from harness.models.weight_matmuls import Operand

COPYING = {"_to_copy", "clone", "index", "index_select"}
"""Operators that say nothing of what a parameter is for."""


class Lie(NamedTuple):
    """How a parameter lies in memory, beside the matrix that it is."""

    shape: tuple[int, ...]
    """The axes of the matrix or the stack, in the order of the parameter."""
    transposed: bool
    """The last axis is that of the outputs: the parameter is `[.., K, N]`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """A weight that a recipe may quantize."""

    name: str
    """Module path, such as `model.layers.0.mlp.up_proj`; with the parameter's name where the module is no linear layer."""
    owner: nn.Module
    attribute: str
    alias: str | None = None
    """`lm_head` or `embed_tokens`, whatever the architecture calls its own; `router` for those and the gates of shared experts."""
    tied_to: str | None = None
    """The target that shares this weight, and comes before it."""
    lie: Lie | None = None
    """How the parameter lies; None if it is the matrix itself, or the stack."""
    called: bool = True
    """It is multiplied while a module that owns it runs, and nowhere else: its inputs can be reached."""
    shared: tuple["Target", ...] = ()
    """Others with this very weight that are quantized with it."""

    @property
    def weight(self) -> nn.Parameter:
        """The parameter that is in place now."""
        parameter: nn.Parameter = getattr(self.owner, self.attribute)
        return parameter

    @property
    def matrix(self) -> Tensor:
        """The weight that is in place now as `[N, K]` or `[E, N, K]`, a view."""
        weight = self.weight.detach()
        if self.lie is None:
            return weight
        matrix = weight.view(self.lie.shape)
        return matrix.mT if self.lie.transposed else matrix

    def stored(self, matrix: Tensor) -> Tensor:
        """Return a matrix, or a stack, the way the parameter lies."""
        if self.lie is None:
            return matrix
        turned = matrix.mT if self.lie.transposed else matrix
        return turned.reshape(self.weight.shape).contiguous()

    @property
    def transposed(self) -> bool:
        """The parameter has the axis of its outputs last."""
        return self.lie is not None and self.lie.transposed

    @property
    def linear(self) -> nn.Linear | None:
        """The layer, as the `nn.Linear` that computes the same with the same parameters; None if it does something else as well."""
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
        """Say whether a glob matches the path or the alias."""
        return fnmatchcase(self.name, pattern) or self.alias == pattern


class Other(NamedTuple):
    """A parameter of two axes or more that is no target."""

    name: str
    parameter: nn.Parameter
    reason: str
    is_used: bool
    """A text run needs it."""

    def matches(self, pattern: str) -> bool:
        """Say whether a glob matches its name, or the path of the module that it is the weight of."""
        return any(fnmatchcase(n, pattern) for n in (self.name, self.name.removesuffix(".weight")))


def output_layer(module: PreTrainedModel) -> nn.Module:
    """Return the layer that makes logits, `lm_head` in most architectures."""
    head: nn.Module = module.get_output_embeddings()  # type: ignore[no-untyped-call]
    return head


def is_linear(module: nn.Module) -> bool:
    """Say whether a module is a linear layer: that of torch, or the Conv1D of GPT-2, which is one despite its name."""
    return isinstance(module, nn.Linear | Conv1D)


@torch.no_grad()
def _computes_as_linear(target: Target) -> bool:
    """Say whether a layer computes `x W^T + b` and nothing else, which a subclass with a `forward` of its own need not do."""
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
    # Each rounds its sums of K products once to the type of the weight, and adds them up in float32 in an order of its own.
    eps = 2 * torch.finfo(weight.dtype).eps + torch.finfo(torch.float32).eps * x.shape[1] ** 0.5
    bound = eps * float(expected.norm())
    return (
        isinstance(found, Tensor)
        and found.shape == expected.shape
        and float((found - expected).norm()) <= bound
    )


def find_targets(module: PreTrainedModel) -> list[Target]:
    """Return every target, in the model's own order. The first call runs the model once."""
    usage, embedding = usage_of(module), module.get_input_embeddings()
    aliases = {
        id(embedding): "embed_tokens",
        id(output_layer(module)): "lm_head",
    }
    targets: list[Target] = []
    seen: dict[int, str] = {}
    for path, owner, attribute, parameter in _parameters(module):
        use = usage.get(f"{path}.{attribute}", Use())
        lie = _lie(owner, attribute, parameter, use)
        if owner is embedding and attribute == "weight":
            lie = Lie(tuple(parameter.shape), transposed=False)
        if lie is None:
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
                lie=None if lie == (tuple(parameter.shape), False) else lie,
                called=bool(use.operands) and not use.num_outside,
            )
        )
        seen.setdefault(id(parameter), name)
    return _with_gates(targets)


def find_others(module: PreTrainedModel) -> list[Other]:
    """Return what has two axes or more and is no target: no recipe can quantize it."""
    usage = usage_of(module)
    reachable = {id(target.weight) for target in find_targets(module)}
    found = []
    for name, parameter in module.named_parameters():
        if parameter.dim() < 2 or id(parameter) in reachable:
            continue
        use = usage.get(name, Use())
        found.append(Other(name, parameter, _reason(use), use.is_used))
    return found


def find_unreachable(module: PreTrainedModel) -> dict[str, nn.Parameter]:
    """Return the matrices that are no target, by parameter name."""
    return {other.name: other.parameter for other in find_others(module)}


def num_unused(module: PreTrainedModel) -> int:
    """Return how many parameters a text run does not need, such as those of a vision tower."""
    usage = usage_of(module)
    named = module.named_parameters()
    return sum(p.numel() for name, p in named if name in usage and not usage[name].is_used)


def _parameters(module: nn.Module) -> Iterator[tuple[str, nn.Module, str, nn.Parameter]]:
    for path, owner in module.named_modules():
        for attribute, parameter in owner.named_parameters(recurse=False):
            yield path, owner, attribute, parameter


def _lie(owner: nn.Module, attribute: str, parameter: nn.Parameter, use: Use) -> Lie | None:
    """Return how a parameter lies that is a matrix or a stack of matrices in every matmul; None if it is neither."""
    shape = tuple(parameter.shape)
    if not use.operands or not parameter.is_floating_point():
        return None
    if is_linear(owner) and attribute == "weight":  # their classes say so
        return Lie(shape, transposed=isinstance(owner, Conv1D))
    lies = {_lie_in(shape, operand) for operand in use.operands}
    return lies.pop() if len(lies) == 1 else None


def _lie_in(shape: tuple[int, ...], operand: Operand) -> Lie | None:
    """Return how a parameter lies in one matmul: which axes are the inputs, which are the outputs, and what is left is a stack."""
    axes, last = range(len(shape)), {len(shape) - 2, len(shape) - 1}
    summed, free = set(operand.summed), set(operand.free)
    # An axis of size 1 has no stride of its own: it is the one that is left.
    summed = summed or last - free
    free = free or last - summed
    if len(shape) == 2 and summed | free == {0, 1} and not summed & free:
        piece = operand.num_summed if 0 in summed else operand.num_free
        pieces = shape[0] // piece
        if pieces > 1 and shape[0] == pieces * piece:
            shape = (pieces, piece, shape[1])
        return Lie(shape, transposed=0 in summed)
    if len(shape) < 3:
        return None
    first, second = len(shape) - 2, len(shape) - 1
    stack = (math.prod(shape[:-2]), *shape[-2:])
    if summed == {second} and first in free:
        return Lie(stack, transposed=False)
    if summed == {first} and free == {second}:
        return Lie(stack, transposed=True)
    if summed | free != set(axes) or summed & free:
        return None
    if summed == set(range(len(summed))):  # the leading axes are the inputs, the others the outputs
        inputs = math.prod(shape[: len(summed)])
        return Lie((inputs, math.prod(shape) // inputs), transposed=True)
    if free == set(range(len(free))):
        outputs = math.prod(shape[: len(free)])
        return Lie((outputs, math.prod(shape) // outputs), transposed=False)
    return None


def _is_router(name: str, use: Use) -> bool:
    return use.is_router or "router" in name.split(".")


def _with_gates(targets: Sequence[Target]) -> list[Target]:
    """Give the gates of shared experts the alias of routers: layers with one output in the block of a router."""
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
    """Return the path, with a dot, of the innermost module around a router that has other weights too."""
    path = router
    while path := path.rpartition(".")[0]:
        if any(name.startswith(f"{path}.") for name in others):
            return f"{path}."
    return None


def _reason(use: Use) -> str:
    if not use.is_used:
        return "not used by a text run"
    if use.operands:
        return "multiplied along other axes than a matrix, or a stack of them, has"
    others = ", ".join(sorted(use.operators - COPYING)) or "copies"
    return f"no matmul has it as an operand, only: {others}"
