"""Granularity: how many elements share one scale.

A block has a size for each of the last two axes; -1 is the whole axis:

    weight [N, K], block (-1, -1)  ->  scale [1, 1]            per tensor
    weight [N, K], block ( 1, -1)  ->  scale [N, 1]            per channel, per token
    weight [N, K], block ( 1, 64)  ->  scale [N, ceil(K/64)]   group-wise, groups of 64
    weight [N, K], block (-1, 1)   ->  scale [1, K]            per input channel
    weight [N, K], block (128,128) ->  scale [ceil(N/128), ceil(K/128)]
    stack [E, N, K], block (1, -1) ->  scale [E, N, 1]         each index of a leading axis alone

A vector is one row. With `flat` a tensor of any shape is one long row, as in bitsandbytes, and only
its very last block can be short.

If a block does not divide its axis, the last block is short (`tail: short`). Its scale comes from
the elements that exist; zeros fill the block up while it is rounded. `tail: error` raises instead.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, kw_only=True, slots=True)
class Granularity:
    """The block of elements that shares one scale; see the module docstring."""

    block: tuple[int, int]
    """Block size of the last two axes; -1 is the whole axis."""
    tail: Literal["short", "error"] = "short"
    """Whether the last block may be short where a block does not divide its axis."""
    flat: bool = False
    """Blocks run on from row to row, as if the tensor were one row."""

    def __post_init__(self) -> None:
        """Check that block sizes are positive or -1."""
        if any(size != -1 and size < 1 for size in self.block):
            raise ValueError(
                f"block must hold sizes >= 1, or -1 for a whole axis, got {self.block}"
            )
        if self.flat and self.block[0] != 1:
            raise ValueError(f"block must be (1, size) where flat, got {self.block}")

    @property
    def name(self) -> str:
        """`tensor`, `row`, `column`, `g64`, flat `b64`, or the block itself as `128x128`."""
        # Blocks of whole axes have names, and so have groups along a row.
        named = {(-1, -1): "tensor", (1, -1): "row", (-1, 1): "column"}
        if self.flat:
            return f"b{self.block[1]}"
        if self.block in named:
            return named[self.block]
        if self.block[0] == 1:
            return f"g{self.block[1]}"
        return "x".join("all" if size == -1 else str(size) for size in self.block)

    def sizes(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the block size of every axis of `shape`.

        shape [3, 5, 200], block (-1, 64)  ->  (1, 5, 64)

        Raises:
            ValueError: A block does not divide its axis, and `tail` is `error`.
        """
        if self.tail == "error" and self.has_tail(shape):
            raise ValueError(
                f"block must divide the tensor: shape={tuple(shape)}, block={self.block}; "
                "choose another group size or allow tail=short"
            )
        # Every index of a leading axis has its own scales.
        leading = (1,) * (len(shape) - 2)
        # A block longer than its axis is cut to it. Padding the axis could take enormous memory.
        cut = (axis if size == -1 else min(axis, size) for axis, size in self._pairs(shape))
        return leading + tuple(max(size, 1) for size in cut)

    def has_tail(self, shape: Sequence[int]) -> bool:
        """Say whether a tensor of `shape` has a short block."""
        return any(size != -1 and axis % size != 0 for axis, size in self._pairs(shape))

    def _pairs(self, shape: Sequence[int]) -> list[tuple[int, int]]:
        """Return (length, block size) of the last two axes; of the one axis of a vector."""
        return list(zip(shape[-2:], self.block[-len(shape[-2:]) :], strict=True))

    def scale_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the shape of the scales of a tensor of `shape`."""
        # Rounded up: a short block has a scale too.
        pairs = zip(shape, self.sizes(shape), strict=True)
        return tuple(-(-axis // size) for axis, size in pairs)

    def blocked(self, x: Tensor) -> Tensor:
        """View `x` `[A, B, ..]` as `[A/a, a, B/b, b, ..]`, zero-padded where a block is short."""
        sizes = self.sizes(x.shape)
        padding = [-axis % size for axis, size in zip(x.shape, sizes, strict=True)]
        if any(padding):
            # F.pad counts axes from the last one and wants (before, after) for each.
            x = F.pad(x, [amount for pad in reversed(padding) for amount in (0, pad)])
        pairs = zip(x.shape, sizes, strict=True)
        return x.reshape([part for axis, size in pairs for part in (axis // size, size)])

    def unblocked(self, blocks: Tensor, shape: Sequence[int]) -> Tensor:
        """Undo `blocked`: return a contiguous tensor of `shape`, without the padding."""
        # The layout [A/a, a, B/b, b, ..] holds counts and sizes in turn.
        counts, sizes = blocks.shape[0::2], blocks.shape[1::2]
        x = blocks.reshape([count * size for count, size in zip(counts, sizes, strict=True)])
        return x[tuple(slice(axis) for axis in shape)].contiguous()

    def aligned(self, scale: Tensor) -> Tensor:
        """View scales `[a, b, ..]` as `[a, 1, b, 1, ..]`, ready to multiply `blocked(x)`."""
        return scale.reshape([part for count in scale.shape for part in (count, 1)])

    def reduce(self, x: Tensor, function: Callable[[Tensor, tuple[int, ...]], Tensor]) -> Tensor:
        """Return `function(blocks, axes inside a block)`, shape `scale_shape(x.shape)`.

        x [2, 128], block (1, 64), torch.amax  ->  [2, 2], the largest value of each block

        Short blocks are not padded: zeros would change a minimum or a percentile.
        """
        for axis, (length, size) in enumerate(zip(x.shape, self.sizes(x.shape), strict=True)):
            if tail := length % size:
                # The short block of this axis by itself; other axes follow in the recursion.
                parts = torch.split(x, [length - tail, tail], axis)
                return torch.cat([self.reduce(part, function) for part in parts], axis)
        # No short block is left: the axes inside a block are every second one.
        blocks = self.blocked(x)
        return function(blocks, tuple(range(1, blocks.dim(), 2)))

    def expand(self, scale: Tensor, shape: Sequence[int]) -> Tensor:
        """Return the scale of each element of a tensor of `shape`: `scale` repeated over blocks."""
        counts_and_sizes = zip(scale.shape, self.sizes(shape), strict=True)
        # Stretch the axes of length 1 to the block size; no memory until `unblocked` copies.
        blocks = self.aligned(scale).expand([n for pair in counts_and_sizes for n in pair])
        return self.unblocked(blocks, shape)
