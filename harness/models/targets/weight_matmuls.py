"""Find every matmul that has a weight as an operand, below everything that a model does in Python.

A model may reach its weights in many ways: a linear layer uses its own, a mixture indexes one
expert of a stack, a block transposes the weight of a child, another casts it first. Torch
dispatches all of them to the few operators of `OPERAND_PLACES`, and `WeightMatmuls` sees each with
its operands.

1. *Which weight.* Each weight occupies a range of memory. An operand whose first element lies in
   the range is a view of this weight (`memory`). The range is found by bisection.
2. *Copies.* Casts and gathered experts (`COPIES`) lie elsewhere. `observe` notes the memory of each
   such copy, with the axes of the weight along which the copy runs, until the memory is reused.
3. *Which axes.* A dimension of an operand with stride s and size n steps over the offsets s .. s n.
   So does each axis of the weight. The dimension runs along the axes whose range overlaps
   (`_covered`). Example: a weight [E, N, K] is contiguous, with strides (N K, K, 1). The operand
   `w[e].T` is [K, N] with strides (1, K). Its first dimension covers 1 .. K, which is axis 2; its
   second K .. N K, which is axis 1.
4. *Summed or kept.* A matmul [M, K] x [K, N] sums over the last dimension of the left operand and
   over the second to last of the right one. The other dimension of the weight remains in the
   result.
5. *The activation.* The other operand is the activation. The callback may replace it.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass
from torch.utils._pytree import tree_iter

OPERAND_PLACES = {
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
"""Where the operands `[.., M, K]` and `[.., K, N]` of each matmul stand among its arguments."""
GROUPED = ("aten::_grouped_mm", "transformers::grouped_mm_fallback")
"""Matmuls with a stack. Their third argument has the last row of each matrix's part of the left
operand."""
COPIES = ("aten::_to_copy", "aten::clone", "aten::index", "aten::index_select")
"""Operators whose result is a copy of numbers of the weight: casts, and gathered experts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Operand:
    """A weight, or a part of it, as an operand of one matmul."""

    key: str
    """Name of the weight."""
    position: int
    """0 for the left operand, 1 for the right one."""
    summed: frozenset[int]
    """Axes of the weight that the matmul sums over."""
    free: frozenset[int]
    """Axes of the weight that remain in the result."""
    num_summed: int
    """Terms of each sum; fewer than the size of the axis where the weight is multiplied in
    pieces."""
    num_free: int
    """Outputs; fewer than the size of the axis where the weight is multiplied in pieces."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Memory:
    """Where a weight, or a copy of a part of it, lies in memory."""

    key: str
    axes: tuple[tuple[int, int, int], ...]
    """(axis of the weight, its stride, its size) in this memory."""


ChangeOperand = Callable[[Operand, Tensor], Tensor]


class WeightMatmuls(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Context manager: calls `seen` at every matmul with one of the weights."""

    def __init__(self, weights: Mapping[str, Tensor], seen: ChangeOperand) -> None:
        """Watch weights, by name.

        Args:
            weights: The parameters to look for.
            seen: Gets the operand and the activation `[.., M, K]`; returns the activation to use.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self._seen = seen
        self._copies: dict[int, _Memory] = {}
        places = [(w.data_ptr(), name, w) for name, w in weights.items() if _has_memory(w)]
        # Sorted by address, for the bisection in `memory`.
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
        # An in-place operator has a `_` at the end, an overload a name after the dot.
        kwargs, name = kwargs or {}, func.name().partition(".")[0].removesuffix("_")
        if name not in OPERAND_PLACES:
            # In inference mode `linear` and `matmul` arrive whole. Take them apart here.
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        elif any(self.memory(args[place]) for place in OPERAND_PLACES[name]):
            args = self._matmul(name, args, kwargs)
        result = func(*args, **kwargs)
        self.observe(name, (args, kwargs), result)
        return result

    def _matmul(
        self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[Any, ...]:
        """Call `seen` for each operand that is a weight; return the arguments with its results."""
        places = OPERAND_PLACES[name]
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
        """Return what `seen` makes of an activation, in the shape of the activation."""
        if operand.position == 0:  # W X: the activation is [.., K, M]
            moved = x[:, None] if x.dim() == 1 else x
            return self._seen(operand, moved.mT).mT.reshape(x.shape)
        # X W: the activation is [.., M, K].
        rows = x[None] if x.dim() == 1 else x
        if ends is None or rows.dim() != 2:
            return self._seen(operand, rows).reshape(x.shape)
        # Grouped: one call for the rows of each matrix. Rows behind the last end belong to none.
        starts = [0, *ends]
        parts = [rows[a:b] for a, b in zip(starts, [*ends, len(rows)], strict=True)]
        return torch.cat([self._seen(operand, part) if len(part) else part for part in parts])

    def observe(self, name: str, given: Any, result: Any) -> None:
        """Note where an operator copies a weight to, and forget copies whose memory it reuses."""
        places = {storage(x) for x in tensors(given)}
        for made in tensors(result):
            if (place := storage(made)) in places:
                continue  # a view, or an operator in place
            self._copies.pop(place, None)
            source = next(tensors(given), None)
            if name in COPIES and source is not None and (memory := self.memory(source)):
                axes = _copied_axes(memory, source, made)
                self._copies[place] = _Memory(key=memory.key, axes=axes)

    def memory(self, x: Any) -> _Memory | None:
        """Return the weight, or the copy of one, that a tensor lies in; None if there is none."""
        if not isinstance(x, Tensor) or not _has_memory(x):
            return None
        # The last weight that starts at or before the address, if it also ends after it.
        address = x.data_ptr()
        index = bisect_right(self._starts, address) - 1
        if index >= 0 and address < self._ends[index]:
            return self._weights[index]
        return self._copies.get(storage(x))


def tensors(tree: Any) -> Iterator[Tensor]:
    """Yield the tensors with memory among the arguments or results of an operator."""
    return (x for x in tree_iter(tree) if isinstance(x, Tensor) and _has_memory(x))


def _has_memory(x: Tensor) -> bool:
    """Return whether a tensor has memory of its own; wrapper subclasses hold other tensors."""
    return x.numel() > 0 and x.device.type != "meta" and not is_traceable_wrapper_subclass(x)


def storage(x: Tensor) -> int:
    """Return the address of the memory that a tensor shares with its views."""
    return x.untyped_storage().data_ptr()


def _extent(x: Tensor) -> int:
    """Return the number of bytes from the first to the last element of a tensor, both included."""
    last = sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
    return (last + 1) * x.element_size()


def _axes(weight: Tensor) -> tuple[tuple[int, int, int], ...]:
    sizes = zip(weight.stride(), weight.shape, strict=True)
    return tuple((axis, stride, size) for axis, (stride, size) in enumerate(sizes))


def _covered(memory: _Memory, stride: int, size: int) -> frozenset[int]:
    """Return the axes of a weight that a dimension of an operand runs along.

    The dimension steps over the offsets `stride .. stride * size`, and so does each axis. Where the
    ranges overlap, the two are the same, or one is folded into the other.
    """
    if size < 2:  # a single step has no direction
        return frozenset()
    return frozenset(
        axis
        for axis, own_stride, own_size in memory.axes
        if own_size > 1 and stride < own_stride * own_size and own_stride < stride * size
    )


def _operand(memory: _Memory, x: Tensor, position: int) -> Operand:
    # The last dimension of the left operand, or of a vector, is summed; of the right one the second
    # to last.
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
    """Return the axes of a weight in a copy of it, counted from the last dimension.

    A cast keeps all dimensions. An index replaces leading ones.
    """
    return tuple(
        (axis, made.stride(-back), made.shape[-back])
        for back in range(1, min(source.dim(), made.dim()) + 1)
        for axis in _covered(memory, source.stride(-back), source.shape[-back])
    )
