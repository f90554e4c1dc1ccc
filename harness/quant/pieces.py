"""Cut a tensor, its result and its scales into pieces of whole blocks.

A piece that fits the cache of a processor is several times faster than operations on the whole
tensor, and the float32 copies of a piece are all the extra memory that quantization needs.

    x [1024, 4096], block (1, 128)     ->  pieces [256, 4096], scales [256, 32]
    x [1024, 4096], block (128, 128)   ->  pieces [256, 4096], scales [2, 32]
    x [1024, 4096], block (-1, -1)     ->  pieces [256, 4096], scales [1, 1] for each of them
    x [E, N, K]                        ->  pieces of one [N, K] at a time
"""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from harness.quant.granularity import Granularity
from harness.quant.tensor import ScalePlane, Scales

CPU_PIECE = 2**20
"""Elements of a piece on a CPU: 4 MiB of float32. Smaller pieces are no faster, and cost more
waiting on a busy machine."""
GPU_PIECE = 2**26
"""Elements of a piece on a GPU, which wants few and large kernels."""


def cut_into_pieces(
    x: Tensor, out: Tensor, scales: Scales
) -> Iterator[tuple[Tensor, Tensor, Scales]]:
    """Yield views of matching parts of `x` and `out`, each with its own scales."""
    # One matrix `[rows, columns]` for each index of the leading axes.
    rows, columns = (x.shape[-2] if x.dim() > 1 else 1), x.shape[-1]
    shape = (-1, rows, columns) if x.numel() else (0, rows, columns)
    x, out = x.reshape(shape), out.view(shape)
    granularities = [plane.granularity for plane in scales.all_planes()]
    limit = CPU_PIECE if x.device.type == "cpu" else GPU_PIECE
    row_step, column_step = _steps(x.shape, granularities, limit)
    for layer in range(len(x)):
        for row in range(0, rows, row_step):
            for column in range(0, columns, column_step):
                window = (layer, slice(row, row + row_step), slice(column, column + column_step))
                yield x[window], out[window], _scales_in(scales, x.shape, window)


def _steps(shape: torch.Size, granularities: list[Granularity], limit: int) -> tuple[int, int]:
    """Return rows and columns of a piece: whole blocks of every level, about `limit` elements."""
    _, rows, columns = shape
    # The largest block of all levels. Sizes of nested levels divide each other.
    least = [1, 1]
    for granularity in granularities:
        for axis, size in enumerate(granularity.sizes((rows, columns))):
            # An axis with one scale can be cut anywhere: every piece gets that scale.
            if granularity.block[axis] != -1:
                least[axis] = max(least[axis], size)
    # Whole rows, unless one row of blocks is larger than a piece.
    column_step = max(columns, 1)
    if least[0] * columns > limit:
        column_step = max(limit // least[0] // least[1], 1) * least[1]
    # As many rows of blocks as fit, at least one.
    row_step = max(limit // column_step // least[0], 1) * least[0]
    return row_step, column_step


def _scales_in(scales: Scales, shape: torch.Size, window: tuple[int, slice, slice]) -> Scales:
    """Return the scales of one window of a tensor `[layers, rows, columns]`."""
    layer, rows, columns = window

    def cut(plane: ScalePlane) -> ScalePlane:
        # Scales of one layer, then of its rows and columns.
        counts = plane.granularity.scale_shape(shape[1:])
        sizes = plane.granularity.sizes(shape[1:])
        values = plane.values.reshape(-1, *counts)[layer]
        parts = zip((rows, columns), sizes, counts, strict=True)
        return replace(plane, values=values[tuple(_scales_of(*each) for each in parts)])

    return replace(
        scales,
        planes=tuple(cut(plane) for plane in scales.planes),
        zero_point=scales.zero_point and cut(scales.zero_point),
        offset=scales.offset and cut(scales.offset),
        unrounded=scales.unrounded and cut(scales.unrounded),
    )


def _scales_of(part: slice, size: int, count: int) -> slice:
    """Map a slice of elements to the slice of scales that covers it.

    elements 256:512, blocks of 128, 8 scales  ->  scales 2:4
    elements 256:512, one scale                ->  scales : (the one)
    """
    return slice(part.start // size, -(-part.stop // size)) if count > 1 else slice(None)
