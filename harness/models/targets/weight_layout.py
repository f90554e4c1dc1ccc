"""Which axes of a parameter are inputs, outputs and stack, read off the matmuls that take it.

A target is quantized as a matrix `[N, K]` or a stack `[E, N, K]`, N outputs and K inputs. In memory it may lie as `[K, N]` or `[E, K, N]`,
or with several axes of inputs. In every matmul, K is what is summed over and N is what remains.
"""

import math
from typing import NamedTuple

from torch import nn
from transformers.pytorch_utils import Conv1D

from harness.models.targets.usage import Use
from harness.models.targets.weight_matmuls import Operand


class WeightLayout(NamedTuple):
    """How to view a parameter as a matrix, or a stack of them."""

    shape: tuple[int, ...]
    """Shape of the view, with axes in the order of the parameter."""
    transposed: bool
    """The view is `[.., K, N]`: its last axis has the outputs."""


def is_linear(module: nn.Module) -> bool:
    """Say whether a module is a linear layer: that of torch, or the Conv1D of GPT-2, which is one despite its name."""
    return isinstance(module, nn.Linear | Conv1D)


def layout_of(
    owner: nn.Module, attribute: str, parameter: nn.Parameter, use: Use
) -> WeightLayout | None:
    """Return the layout of a parameter; None if it is no matrix or stack, or not the same one in every matmul."""
    shape = tuple(parameter.shape)
    if not use.operands or not parameter.is_floating_point():
        return None
    if is_linear(owner) and attribute == "weight":  # their classes say so
        return WeightLayout(shape, transposed=isinstance(owner, Conv1D))
    layouts = {_layout_in(shape, operand) for operand in use.operands}
    return layouts.pop() if len(layouts) == 1 else None


def _layout_in(shape: tuple[int, ...], operand: Operand) -> WeightLayout | None:
    """Return the layout of a parameter in one matmul: summed axes are inputs, free ones outputs, the rest is a stack."""
    axes, last = range(len(shape)), {len(shape) - 2, len(shape) - 1}
    summed, free = set(operand.summed), set(operand.free)
    # No step along an axis of size 1 can be seen: it is the one of the last two that is left.
    summed = summed or last - free
    free = free or last - summed
    if len(shape) == 2 and summed | free == {0, 1} and not summed & free:
        # A matrix that is multiplied a slice of its first axis at a time is a stack of these slices.
        piece = operand.num_summed if 0 in summed else operand.num_free
        pieces = shape[0] // piece
        if pieces > 1 and shape[0] == pieces * piece:
            shape = (pieces, piece, shape[1])
        return WeightLayout(shape, transposed=0 in summed)
    if len(shape) < 3:
        return None
    first, second = len(shape) - 2, len(shape) - 1
    # Matrices in the last two axes; the axes before them are one stack.
    stack = (math.prod(shape[:-2]), *shape[-2:])
    if summed == {second} and first in free:
        return WeightLayout(stack, transposed=False)
    if summed == {first} and free == {second}:
        return WeightLayout(stack, transposed=True)
    # One matrix, whose inputs or outputs have several axes: every axis must be one or the other.
    if summed | free != set(axes) or summed & free:
        return None
    if summed == set(range(len(summed))):  # the leading axes are the inputs, the others the outputs
        inputs = math.prod(shape[: len(summed)])
        return WeightLayout((inputs, math.prod(shape) // inputs), transposed=True)
    if free == set(range(len(free))):
        outputs = math.prod(shape[: len(free)])
        return WeightLayout((outputs, math.prod(shape) // outputs), transposed=False)
    return None
