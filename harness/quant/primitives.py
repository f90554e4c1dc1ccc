"""Quantize, dequantize, and both at once: the three verbs for every format and every tensor.

Tensors of any shape and floating type are taken, contiguous or not. Arithmetic is float32 (float64 is rounded to it
first). The work is done in pieces that fit the processor's cache: it is several times faster than whole-tensor
operations, and needs little memory beside the result.
"""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from harness.quant.granularity import Granularity
from harness.quant.overflow import refuse_overflow
from harness.quant.tensor import QuantizedTensor, ScalePlane, Scales, TensorFormat, along, back

PIECE = 2**20
"""Elements of a piece on a CPU: 4 MiB of float32. Smaller ones are no faster, and wait more often for busy processors."""
PIECE_ON_GPU = 2**26
"""A GPU wants few and large kernels."""


def quantize(
    x: Tensor, fmt: TensorFormat, *, axis: int = -1, generator: torch.Generator | None = None
) -> QuantizedTensor:
    """Return codes and scales of `x` in a format, with blocks along `axis`.

    Args:
        x: Floating-point tensor of any shape.
        fmt: Where the codes come from.
        axis: The axis that the last size of the format's blocks runs along.
        generator: For stochastic rounding.

    Raises:
        ValueError: `x` is not floating point, or the format cannot take its shape.
        FormatOverflow: `x` is finite, and some number of it is not in the format.
    """
    made = encode(x, fmt, fit(x, fmt, axis=axis), axis=axis, generator=generator)
    seen, codes = (along(each, axis, flat=made.flat) for each in (_floating(x), made.codes))
    for part, some, own in _pieces(seen, codes.contiguous(), made.scales):
        refuse_overflow(part, own.apply(fmt.element.decode(some)), fmt.name, seen)
    return made


def encode(
    x: Tensor,
    fmt: TensorFormat,
    scales: Scales,
    *,
    axis: int = -1,
    generator: torch.Generator | None = None,
) -> QuantizedTensor:
    """Return codes of `x` under given scales, which were fitted for the same shape. Overflow is not refused: bit for bit the format."""
    flat = fmt.granularity.flat
    seen = along(_floating(x), axis, flat=flat)
    codes = torch.empty(seen.shape, dtype=_code_type(fmt), device=x.device)
    for part, whole, own in _pieces(seen, codes, scales):
        whole.copy_(fmt.element.encode(fmt.to_grid(part.float(), own, generator)))
    return QuantizedTensor(
        codes=back(codes, x.shape, axis, flat=flat),
        element=fmt.element,
        scales=scales,
        axis=axis,
        flat=flat,
    )


def fit(x: Tensor, fmt: TensorFormat, *, axis: int = -1) -> Scales:
    """Return the scales that a format chooses for `x`."""
    return fmt.fit(along(_floating(x), axis, flat=fmt.granularity.flat))


def fake_quantize(
    x: Tensor,
    fmt: TensorFormat,
    *,
    axis: int = -1,
    scales: Scales | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return `x` rounded to what a format can hold, in the type of `x`.

    Bit for bit `quantize(x, fmt).dequantize()`, cast once, without the codes; `scales` are fitted unless given.

    Raises:
        FormatOverflow: `x` is finite, and some number of it is not, in the format or in the type of `x`.
    """
    flat = fmt.granularity.flat
    seen = along(_floating(x), axis, flat=flat)
    scales = fmt.fit(seen) if scales is None else scales
    out = torch.empty(seen.shape, dtype=x.dtype, device=x.device)
    for part, whole, own in _pieces(seen, out, scales):
        whole.copy_(own.apply(fmt.to_grid(part.float(), own, generator)))
        refuse_overflow(part, whole, fmt.name, seen)
    return back(out, x.shape, axis, flat=flat)


def bits_per_element(fmt: TensorFormat, shape: tuple[int, ...]) -> float:
    """Return the storage of a tensor of `shape` in a format, scales included [bit/element]."""
    scales = fit(torch.empty(shape, device="meta"), fmt)
    n = torch.Size(shape).numel()
    return fmt.element.bits + scales.total_bits / n


def _floating(x: Tensor) -> Tensor:
    if not x.is_floating_point():
        raise ValueError(f"a tensor to quantize must be floating point, got {x.dtype}")
    return x.detach()


def _code_type(fmt: TensorFormat) -> torch.dtype:
    bits = fmt.element.bits
    return torch.uint8 if bits <= 8 else torch.int16 if bits <= 16 else torch.int32


def _pieces(x: Tensor, out: Tensor, scales: Scales) -> Iterator[tuple[Tensor, Tensor, Scales]]:
    """Cut a tensor, its result and its scales into pieces of whole blocks."""
    rows, columns = (x.shape[-2] if x.dim() > 1 else 1), x.shape[-1]
    shape = (-1, rows, columns) if x.numel() else (0, rows, columns)
    x, out = x.reshape(shape), out.view(shape)
    granularities = [plane.granularity for plane in scales.all_planes()]
    piece = PIECE if x.device.type == "cpu" else PIECE_ON_GPU
    row_step, column_step = _steps(x.shape, granularities, piece)
    for layer in range(len(x)):
        for row in range(0, rows, row_step):
            for column in range(0, columns, column_step):
                window = (layer, slice(row, row + row_step), slice(column, column + column_step))
                own = _cut(scales, x.shape, window)
                yield x[window], out[window], own


def _steps(shape: torch.Size, granularities: list[Granularity], piece: int) -> tuple[int, int]:
    """Return how many rows and columns a piece has: whole blocks of every level, about `piece` elements."""
    _, rows, columns = shape
    least = [1, 1]
    for granularity in granularities:
        for axis, size in enumerate(granularity.sizes((rows, columns))):
            # An axis with one scale can be cut anywhere: every piece gets that scale.
            if granularity.block[axis] != -1:
                least[axis] = max(least[axis], size)
    column_step = max(columns, 1)
    if least[0] * columns > piece:
        column_step = max(piece // least[0] // least[1], 1) * least[1]
    row_step = max(piece // column_step // least[0], 1) * least[0]
    return row_step, column_step


def _cut(scales: Scales, shape: torch.Size, window: tuple[int, slice, slice]) -> Scales:
    """Return the scales of one window of a tensor `[layers, rows, columns]`."""
    layer, rows, columns = window

    def cut(plane: ScalePlane) -> ScalePlane:
        counts = plane.granularity.scale_shape(shape[1:])
        sizes = plane.granularity.sizes(shape[1:])
        values = plane.values.reshape(-1, *counts)[layer]
        own = (
            _shrunk(part, *pair) for part, *pair in zip((rows, columns), sizes, counts, strict=True)
        )
        return replace(plane, values=values[tuple(own)])

    return replace(
        scales,
        planes=tuple(cut(plane) for plane in scales.planes),
        zero_point=scales.zero_point and cut(scales.zero_point),
        offset=scales.offset and cut(scales.offset),
        unrounded=scales.unrounded and cut(scales.unrounded),
    )


def _shrunk(part: slice, size: int, count: int) -> slice:
    """Return which of `count` blocks of a size a slice of elements covers; one that serves the axis serves every slice."""
    return slice(part.start // size, -(-part.stop // size)) if count > 1 else slice(None)
