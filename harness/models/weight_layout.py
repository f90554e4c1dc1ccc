"""How a parameter lies in memory, beside the matrix `[N, K]` or the stack `[E, N, K]` that it is: the matmuls say."""

import math
from typing import NamedTuple

from torch import nn
from transformers.pytorch_utils import Conv1D

from harness.models.usage import Use
from harness.models.weight_matmuls import Operand


class WeightLayout(NamedTuple):
    """How a parameter lies in memory, beside the matrix that it is."""

    shape: tuple[int, ...]
    """The axes of the matrix or the stack, in the order of the parameter."""
    transposed: bool
    """The last axis is that of the outputs: the parameter is `[.., K, N]`."""


def is_linear(module: nn.Module) -> bool:
    """Say whether a module is a linear layer: that of torch, or the Conv1D of GPT-2, which is one despite its name."""
    return isinstance(module, nn.Linear | Conv1D)


def layout_of(
    owner: nn.Module, attribute: str, parameter: nn.Parameter, use: Use
) -> WeightLayout | None:
    """Return how a parameter lies that is a matrix or a stack of matrices in every matmul; None if it is neither."""
    shape = tuple(parameter.shape)
    if not use.operands or not parameter.is_floating_point():
        return None
    if is_linear(owner) and attribute == "weight":  # their classes say so
        return WeightLayout(shape, transposed=isinstance(owner, Conv1D))
    layouts = {_layout_in(shape, operand) for operand in use.operands}
    return layouts.pop() if len(layouts) == 1 else None


def _layout_in(shape: tuple[int, ...], operand: Operand) -> WeightLayout | None:
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
        return WeightLayout(shape, transposed=0 in summed)
    if len(shape) < 3:
        return None
    first, second = len(shape) - 2, len(shape) - 1
    stack = (math.prod(shape[:-2]), *shape[-2:])
    if summed == {second} and first in free:
        return WeightLayout(stack, transposed=False)
    if summed == {first} and free == {second}:
        return WeightLayout(stack, transposed=True)
    if summed | free != set(axes) or summed & free:
        return None
    if summed == set(range(len(summed))):  # the leading axes are the inputs, the others the outputs
        inputs = math.prod(shape[: len(summed)])
        return WeightLayout((inputs, math.prod(shape) // inputs), transposed=True)
    if free == set(range(len(free))):
        outputs = math.prod(shape[: len(free)])
        return WeightLayout((outputs, math.prod(shape) // outputs), transposed=False)
    return None
