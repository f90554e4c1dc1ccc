"""Find every matmul that has a weight as an operand, below everything that a model may do in Python.

A model may reach its weights in many ways: a linear layer calls itself, a mixture indexes one expert of a stack, another block
transposes the weight of a child, a third casts it first. Torch dispatches all of them to a few operators. A dispatch mode sees their operands: one
that lies in the memory of a weight, or of a copy of it, is that weight. Its strides say which axes of the weight the matmul sums over.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass
from torch.utils._pytree import tree_iter

OPERANDS = {
    "aten::mm": (0, 1),
    "aten::addmm": (1, 2),
    "aten::_addmm_activation": (1, 2),
    "aten::bmm": (0, 1),
    "aten::baddbmm": (1, 2),
    "aten::addbmm": (1, 2),
    "aten::mv": (0, 1),
    "aten::addmv": (1, 2),
    "aten::dot": (0, 1),
    "aten::_grouped_mm": (0, 1),
    "transformers::grouped_mm_fallback": (0, 1),
}
"""Position of the left operand `[.., M, K]` and of the right one `[.., K, N]` among the arguments of each matmul."""
GROUPED = ("aten::_grouped_mm", "transformers::grouped_mm_fallback")
"""Matmuls over a stack. Their third argument says at which row of the left operand the rows of each matrix end."""
COPIES = ("aten::_to_copy", "aten::clone", "aten::index", "aten::index_select")
"""Operators whose result holds numbers of the weight: casts, and experts that are gathered."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Operand:
    """A weight, or a part of it, as one operand of a matmul."""

    key: str
    """Name of the weight."""
    position: int
    """0 for the left operand, 1 for the right one."""
    summed: frozenset[int]
    """Axes of the weight that the matmul sums over."""
    free: frozenset[int]
    """Axes of the weight that remain in the output."""
    num_summed: int
    """Number of terms of a sum. It is smaller than the axis where the weight is multiplied in pieces."""
    num_free: int
    """Number of outputs, smaller than the axis likewise."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Memory:
    """Where a weight lies, or a copy of (a part of) it."""

    key: str
    axes: tuple[tuple[int, int, int], ...]
    """For each axis of the weight: its number, and its stride and size in this memory."""


Change = Callable[[Operand, Tensor], Tensor]


class WeightMatmuls(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Inside the block, `seen` is called for every matmul with one of the weights, and may replace the other operand."""

    def __init__(self, weights: Mapping[str, Tensor], seen: Change) -> None:
        """Watch weights by name; `seen` gets the activation as `[.., M, K]` and returns what to multiply instead."""
        super().__init__()  # type: ignore[no-untyped-call]
        self._seen = seen
        self._copies: dict[int, _Memory] = {}
        places = [(w.data_ptr(), name, w) for name, w in weights.items() if _has_memory(w)]
        filled = sorted(places, key=lambda place: place[:2])
        self._starts = [start for start, _, _ in filled]
        self._ends = [start + _extent(w) for start, _, w in filled]
        self._weights = [_Memory(key=name, axes=_axes(w)) for _, name, w in filled]

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs, name = kwargs or {}, func.name().partition(".")[0].removesuffix("_")
        if name not in OPERANDS:
            # In inference mode torch does not take `linear` and `matmul` apart before they come here.
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        elif any(self.memory(args[place]) for place in OPERANDS[name]):
            args = self._matmul(name, args, kwargs)
        result = func(*args, **kwargs)
        self.observe(name, (args, kwargs), result)
        return result

    def _matmul(
        self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[Any, ...]:
        """Call `seen` for each operand that is a weight, and return the arguments with the other operand replaced by its result."""
        places = OPERANDS[name]
        changed = list(args)
        offsets = (args[2] if len(args) > 2 else kwargs.get("offs")) if name in GROUPED else None
        for position, place in enumerate(places):
            memory = self.memory(args[place])
            if memory is None:
                continue
            operand = _operand(memory, args[place], position)
            other = places[1 - position]
            ends = None if offsets is None else offsets.tolist()
            changed[other] = self._change(operand, args[other], ends)
        return tuple(changed)

    def _change(self, operand: Operand, x: Tensor, ends: list[int] | None) -> Tensor:
        if operand.position == 0:  # W X: the activation is [.., K, M]
            moved = x[:, None] if x.dim() == 1 else x
            return self._seen(operand, moved.mT).mT.reshape(x.shape)
        # X W: the activation is [.., M, K]. A grouped matmul hands over the rows of one matrix at a time.
        rows = x[None] if x.dim() == 1 else x
        if ends is None or rows.dim() != 2:
            return self._seen(operand, rows).reshape(x.shape)
        starts = [0, *ends]
        parts = [rows[a:b] for a, b in zip(starts, [*ends, len(rows)], strict=True)]
        return torch.cat([self._seen(operand, part) if len(part) else part for part in parts])

    def observe(self, name: str, given: Any, result: Any) -> None:
        """Remember where copies of weights lie, and forget copies whose memory holds something else now."""
        places = {storage(x) for x in tensors(given)}
        for made in tensors(result):
            if (place := storage(made)) in places:
                continue  # a view, or changed in place
            self._copies.pop(place, None)
            source = next(tensors(given), None)
            if name in COPIES and source is not None and (memory := self.memory(source)):
                axes = _copied_axes(memory, source, made)
                self._copies[place] = _Memory(key=memory.key, axes=axes)

    def memory(self, x: Any) -> _Memory | None:
        """Return the weight, or copy of one, that a tensor lies in; None if it lies in neither."""
        if not isinstance(x, Tensor) or not _has_memory(x):
            return None
        # The last weight that starts at or before the tensor, if the tensor starts before its end.
        address = x.data_ptr()
        index = bisect_right(self._starts, address) - 1
        if index >= 0 and address < self._ends[index]:
            return self._weights[index]
        return self._copies.get(storage(x))


def tensors(tree: Any) -> Iterator[Tensor]:
    """Return the tensors with memory among arguments or results of an operator."""
    return (x for x in tree_iter(tree) if isinstance(x, Tensor) and _has_memory(x))


def _has_memory(x: Tensor) -> bool:
    """Say whether a tensor has memory of its own. Wrapper subclasses of quantization libraries have none: they hold other tensors."""
    return x.numel() > 0 and x.device.type != "meta" and not is_traceable_wrapper_subclass(x)


def storage(x: Tensor) -> int:
    """Return the address of the memory that a tensor and its views share."""
    return x.untyped_storage().data_ptr()


def _extent(x: Tensor) -> int:
    """Return how many bytes lie between the first and the last number of a tensor, both included."""
    last = sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
    return (last + 1) * x.element_size()


def _axes(weight: Tensor) -> tuple[tuple[int, int, int], ...]:
    sizes = zip(weight.stride(), weight.shape, strict=True)
    return tuple((axis, stride, size) for axis, (stride, size) in enumerate(sizes))


def _covered(memory: _Memory, stride: int, size: int) -> frozenset[int]:
    """Return the axes of a weight that a dimension of an operand runs along.

    A dimension of `size` steps of `stride` covers the offsets `stride .. stride * size`, an axis likewise. They are the same, or one is
    folded into the other, if these ranges overlap.
    """
    if size < 2:  # one step has no direction
        return frozenset()
    return frozenset(
        axis
        for axis, own_stride, own_size in memory.axes
        if own_size > 1 and stride < own_stride * own_size and own_stride < stride * size
    )


def _operand(memory: _Memory, x: Tensor, position: int) -> Operand:
    summed = x.dim() - 1 if position == 0 or x.dim() == 1 else x.dim() - 2
    free = {x.dim() - 2, x.dim() - 1} - {summed} if x.dim() > 1 else set()
    kept = next(iter(free), None)
    return Operand(
        key=memory.key,
        position=position,
        summed=_covered(memory, x.stride(summed), x.shape[summed]),
        free=frozenset() if kept is None else _covered(memory, x.stride(kept), x.shape[kept]),
        num_summed=x.shape[summed],
        num_free=1 if kept is None else x.shape[kept],
    )


def _copied_axes(memory: _Memory, source: Tensor, made: Tensor) -> tuple[tuple[int, int, int], ...]:
    """Return the axes of the weight in a copy. Casts keep all dimensions; an index replaces leading ones, so count from the last."""
    return tuple(
        (axis, made.stride(-back), made.shape[-back])
        for back in range(1, min(source.dim(), made.dim()) + 1)
        for axis in _covered(memory, source.stride(-back), source.shape[-back])
    )
