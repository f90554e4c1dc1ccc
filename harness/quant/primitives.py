"""Apply a format to a tensor: `quantize`, `encode`, `fit`, `fake_quantize`.

    fit            x, format          ->  scales
    encode         x, format, scales  ->  codes and scales
    quantize       x, format          ->  codes and scales      fit, encode, check for overflow
    fake_quantize  x, format          ->  rounded x             quantize, dequantize, no codes

Tensors may have any shape, strides and floating type. Arithmetic is float32; float64 is rounded to
it first. The work is done piece by piece (`pieces`).
"""

import torch
from torch import Tensor

from harness.formats.overflow import refuse_overflow
from harness.quant.pieces import cut_into_pieces
from harness.quant.tensor import (
    QuantizedTensor,
    Scales,
    TensorFormat,
    move_blocks_last,
    restore_axis,
)


def quantize(
    x: Tensor, fmt: TensorFormat, *, axis: int = -1, generator: torch.Generator | None = None
) -> QuantizedTensor:
    """Return codes and scales of `x` in a format, with blocks along `axis`.

    Args:
        x: Floating-point tensor of any shape.
        fmt: The tensor format.
        axis: The axis that the last size of the format's blocks runs along.
        generator: For stochastic rounding.

    Raises:
        ValueError: `x` is not floating point, or the format cannot take its shape.
        FormatOverflow: `x` is finite, and the format makes infinity or NaN of a number.
    """
    made = encode(x, fmt, fit(x, fmt, axis=axis), axis=axis, generator=generator)
    # Overflow shows in the decoded values only.
    seen = move_blocks_last(_floating(x), axis, flat=made.flat)
    codes = move_blocks_last(made.codes, axis, flat=made.flat).contiguous()
    for part, some, own in cut_into_pieces(seen, codes, made.scales):
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
    """Return codes of `x` under given scales, which must be fitted to a tensor of the same shape.

    Overflow is not checked: the result is the format, bit for bit.
    """
    # Formats see the axis of the blocks last.
    flat = fmt.granularity.flat
    seen = move_blocks_last(_floating(x), axis, flat=flat)
    codes = torch.empty(seen.shape, dtype=_code_type(fmt), device=x.device)
    # Divide by the scales, round, encode: a piece at a time, float32.
    for part, target, own in cut_into_pieces(seen, codes, scales):
        target.copy_(fmt.element.encode(fmt.to_grid(part.float(), own, generator)))
    return QuantizedTensor(
        codes=restore_axis(codes, x.shape, axis, flat=flat),
        element=fmt.element,
        scales=scales,
        axis=axis,
        flat=flat,
    )


def fit(x: Tensor, fmt: TensorFormat, *, axis: int = -1) -> Scales:
    """Return the scales that a format chooses for `x`."""
    return fmt.fit(move_blocks_last(_floating(x), axis, flat=fmt.granularity.flat))


def fake_quantize(
    x: Tensor,
    fmt: TensorFormat,
    *,
    axis: int = -1,
    scales: Scales | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return `x` rounded to the values of a format, in the type of `x`.

    Equals `quantize(x, fmt).dequantize()` cast once, bit for bit, without making codes. `scales`
    are fitted unless given.

    Raises:
        FormatOverflow: `x` is finite, and the format or the type of `x` makes infinity or NaN of a
            number.
    """
    flat = fmt.granularity.flat
    seen = move_blocks_last(_floating(x), axis, flat=flat)
    scales = fmt.fit(seen) if scales is None else scales
    # Round and multiply by the scales again; `copy_` casts to the type of `x`, once.
    out = torch.empty(seen.shape, dtype=x.dtype, device=x.device)
    for part, target, own in cut_into_pieces(seen, out, scales):
        target.copy_(own.apply(fmt.to_grid(part.float(), own, generator)))
        # After the cast, which may overflow where float32 does not.
        refuse_overflow(part, target, fmt.name, seen)
    return restore_axis(out, x.shape, axis, flat=flat)


def bits_per_element(fmt: TensorFormat, shape: tuple[int, ...]) -> float:
    """Return the storage of a tensor of `shape` in a format, scales included [bit/element]."""
    # The meta device has shapes and no values, and sizes follow from shapes.
    scales = fit(torch.empty(shape, device="meta"), fmt)
    n = torch.Size(shape).numel()
    return fmt.element.bits + scales.total_bits / n


def _floating(x: Tensor) -> Tensor:
    if not x.is_floating_point():
        raise ValueError(f"a tensor to quantize must be floating point, got {x.dtype}")
    # Codes have no gradient. `harness.nn.ops` has the straight-through one.
    return x.detach()


def _code_type(fmt: TensorFormat) -> torch.dtype:
    # The narrowest integer of torch that holds a code.
    bits = fmt.element.bits
    return torch.uint8 if bits <= 8 else torch.int16 if bits <= 16 else torch.int32
