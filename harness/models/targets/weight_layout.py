"""How a parameter lies in memory: which axes are inputs, outputs and stack, read off its matmuls.

A recipe quantizes a matrix `[N, K]` or a stack `[E, N, K]`, with N outputs and K inputs. In memory,
a parameter may be `[K, N]` or `[E, K, N]`, or have several axes of inputs or outputs. A matmul sums
over K, and N remains in its result, so:

1. Axes that the matmul sums over are inputs, axes that remain are outputs, all others are the
   stack.
2. An axis of size 1 has no stride to be seen. It is the missing one of the last two axes.
3. A parameter of two axes that is multiplied a slice at a time is a stack of its slices.
4. Otherwise inputs and outputs are the last two axes of a stack, or together all axes of one
   matrix.
5. All matmuls with the parameter must agree. If they do not, it is no target.

Shapes that occur, with the axes that the matmul sums over and keeps:

    [N, K]         sums 1        keeps 0        a linear layer
    [K, N]         sums 0        keeps 1        GPT-2's Conv1D
    [E, N, K]      sums 2        keeps 1        experts
    [E, K, N]      sums 1        keeps 2        experts of Llama 4
    [E N, K]       sums 1        keeps 0, N at a time        experts in one matrix: [E, N, K]
    [K1, K2, N]    sums 0, 1     keeps 2        one matrix [K1 K2, N]
"""

import math
from typing import NamedTuple

from torch import nn
from transformers.pytorch_utils import Conv1D

from harness.models.targets.usage import Use
from harness.models.targets.weight_matmuls import Operand


class WeightLayout(NamedTuple):
    """How to view a parameter as a matrix or a stack of matrices."""

    shape: tuple[int, ...]
    """Shape of the view; axes keep the order of the parameter."""
    transposed: bool
    """Whether the view is `[.., K, N]`, with the outputs last."""


def is_linear(module: nn.Module) -> bool:
    """Return whether a module is a linear layer: `nn.Linear`, or the Conv1D of GPT-2."""
    return isinstance(module, nn.Linear | Conv1D)


def weight_layout(
    owner: nn.Module, attribute: str, parameter: nn.Parameter, use: Use
) -> WeightLayout | None:
    """Return the layout of a parameter; None if it is no matrix or stack in all matmuls."""
    shape = tuple(parameter.shape)
    if not use.operands or not parameter.is_floating_point():
        return None
    # The class of a linear layer says how its weight lies.
    if is_linear(owner) and attribute == "weight":
        return WeightLayout(shape, transposed=isinstance(owner, Conv1D))
    layouts = {_layout_in(shape, operand) for operand in use.operands}
    return layouts.pop() if len(layouts) == 1 else None


def _layout_in(shape: tuple[int, ...], operand: Operand) -> WeightLayout | None:
    """Return the layout that one matmul shows; see the numbered list in the module docstring."""
    axes, last = range(len(shape)), {len(shape) - 2, len(shape) - 1}
    summed, free = set(operand.summed), set(operand.free)
    # 2. An axis of size 1.
    summed = summed or last - free
    free = free or last - summed
    if len(shape) == 2 and summed | free == {0, 1} and not summed & free:
        # 3. Slices of the first axis: a piece is smaller than the axis, and divides it.
        piece = operand.num_summed if 0 in summed else operand.num_free
        pieces = shape[0] // piece
        if pieces > 1 and shape[0] == pieces * piece:
            shape = (pieces, piece, shape[1])
        return WeightLayout(shape, transposed=0 in summed)
    if len(shape) < 3:
        return None
    first, second = len(shape) - 2, len(shape) - 1
    # 4. A stack of matrices in the last two axes; all axes before them count as one.
    stack = (math.prod(shape[:-2]), *shape[-2:])
    if summed == {second} and first in free:
        return WeightLayout(stack, transposed=False)
    if summed == {first} and free == {second}:
        return WeightLayout(stack, transposed=True)
    # 4. One matrix, in which each axis is either an input or an output.
    if summed | free != set(axes) or summed & free:
        return None
    if summed == set(range(len(summed))):  # inputs first
        inputs = math.prod(shape[: len(summed)])
        return WeightLayout((inputs, math.prod(shape) // inputs), transposed=True)
    if free == set(range(len(free))):  # outputs first
        outputs = math.prod(shape[: len(free)])
        return WeightLayout((outputs, math.prod(shape) // outputs), transposed=False)
    return None
