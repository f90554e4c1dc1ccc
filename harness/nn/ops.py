"""Differentiable rounding and products: what quantization-aware training and training in low precision compute.

`fake_quantize_ste` rounds on the way forward and passes the gradient straight through (Bengio et al., arXiv 1308.3432),
optionally rounded too, optionally masked where a number was clipped.

    Y = A B              A [.., M, K], B [.., K, N]         `matmul`
    Y = beta I + alpha A B                                  `baddbmm`
    dA = G B^T,  dB = A^T G,  dI = beta G                   G: gradient of Y

A `ProductFormats` says which of the operands of these three products are rounded, and along which axis blocks run. A real
kernel sums over the contraction axis, so blocks belong there: K forward, N for dA, M for dB; `along_contraction` makes
that. The saved operands are the unrounded ones, so each product rounds as it needs.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from harness.formats.base import NumberFormat
from harness.quant.primitives import fake_quantize, fit
from harness.quant.tensor import Scales, TensorFormat, along, back


@dataclass(frozen=True, kw_only=True, slots=True)
class Cast:
    """Rounding to a format with blocks along an axis."""

    format: TensorFormat
    axis: int = -1

    def __call__(self, x: Tensor) -> Tensor:
        """Return `x` rounded, in its own type."""
        return fake_quantize(x, self.format, axis=self.axis)


def rounded(x: Tensor, cast: Cast | None) -> Tensor:
    """Return `x` rounded, or as it is."""
    return x if cast is None else cast(x)


@dataclass(frozen=True, kw_only=True, slots=True)
class ProductFormats:
    """The rounding of every operand of a product and its two gradients; None leaves one in float."""

    a: Cast | None = None
    b: Cast | None = None
    grad_for_a: Cast | None = None
    """G in `dA = G B^T`."""
    b_for_a: Cast | None = None
    """B in `dA = G B^T`."""
    a_for_b: Cast | None = None
    """A in `dB = A^T G`."""
    grad_for_b: Cast | None = None
    """G in `dB = A^T G`."""
    grad_for_input: Cast | None = None
    """G in `dI = beta G`."""
    compute_dtype: torch.dtype | None = None
    """Type that the forward product is computed and returned in; None is that of A."""


def along_contraction(
    a: TensorFormat | None, b: TensorFormat | None, *, backward: TensorFormat | None = None
) -> ProductFormats:
    """Return the formats of a product whose blocks all run along the axis that is summed over.

    Args:
        a: Format of A, None for float.
        b: Format of B, None for float.
        backward: Format of all four operands of the gradients; None keeps them in float (straight through).
    """

    def cast(fmt: TensorFormat | None, axis: int) -> Cast | None:
        return None if fmt is None else Cast(format=fmt, axis=axis)

    return ProductFormats(
        a=cast(a, -1),
        b=cast(b, -2),
        grad_for_a=cast(backward, -1),
        b_for_a=cast(backward, -1),
        a_for_b=cast(backward, -2),
        grad_for_b=cast(backward, -2),
    )


def fake_quantize_ste(
    x: Tensor,
    fmt: TensorFormat,
    *,
    axis: int = -1,
    scales: Scales | None = None,
    backward: Cast | None = None,
    mask_clipped: bool = False,
) -> Tensor:
    """Return `x` rounded to a format; its gradient is the incoming one.

    Args:
        x: Tensor of any shape.
        fmt: Format of the forward pass.
        axis: Axis that blocks run along.
        scales: Scales to use; fitted to `x` if None.
        backward: Rounding of the gradient.
        mask_clipped: Let no gradient through where `x` is outside of the range of its block.
    """
    result: Tensor = _StraightThrough.apply(x, fmt, axis, scales, backward, mask_clipped)  # type: ignore[no-untyped-call]
    return result


def matmul(a: Tensor, b: Tensor, formats: ProductFormats) -> Tensor:
    """Return `a @ b` of rounded operands; both need the same number of axes, two or three.

    Raises:
        ValueError: The shapes do not fit.
    """
    _check(a, b)
    result: Tensor = _Product.apply(None, a, b, formats, 0.0, 1.0)  # type: ignore[no-untyped-call]
    return result


def baddbmm(
    input: Tensor,
    a: Tensor,
    b: Tensor,
    formats: ProductFormats,
    *,
    beta: float = 1.0,
    alpha: float = 1.0,
) -> Tensor:
    """Return `beta * input + alpha * (a @ b)` of rounded `a` and `b`; `input` is not rounded."""
    _check(a, b)
    result: Tensor = _Product.apply(input, a, b, formats, beta, alpha)  # type: ignore[no-untyped-call]
    return result


def qkv(
    q: Tensor, k: Tensor, v: Tensor, fmt: TensorFormat, *, backward: Cast | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return query, key and value of an attention rounded along their last axis, gradients straight through."""
    rounded_q, rounded_k, rounded_v = (
        fake_quantize_ste(x, fmt, backward=backward) for x in (q, k, v)
    )
    return rounded_q, rounded_k, rounded_v


def _check(a: Tensor, b: Tensor) -> None:
    fits = a.dim() == b.dim() >= 2 and a.shape[-1] == b.shape[-2] and a.shape[:-2] == b.shape[:-2]
    if not fits:
        raise ValueError(
            f"a and b must be [.., M, K] and [.., K, N] with equal leading axes, got {tuple(a.shape)} and {tuple(b.shape)}"
        )


def in_range(x: Tensor, fmt: TensorFormat, scales: Scales, axis: int = -1) -> Tensor:
    """Say of each number whether it is rounded, not clipped: at most half a step beyond what its block can hold."""
    flat = fmt.granularity.flat
    seen = along(x, axis, flat=flat).float()
    low, high = (scales.apply(torch.full_like(seen, end)) for end in _borders(fmt.element))
    return back((seen >= low) & (seen <= high), x.shape, axis, flat=flat)


def _borders(element: NumberFormat) -> tuple[float, float]:
    """Return the numbers that round to the smallest and the largest value, half a step beyond them."""
    if element.bits > 8:
        return -element.max, element.max
    values = element.values().double()
    below, above = values[0] - values[1], values[-1] - values[-2]
    return float(values[0] + below / 2), float(values[-1] + above / 2)


class _StraightThrough(Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        fmt: TensorFormat,
        axis: int,
        scales: Scales | None,
        backward: Cast | None,
        mask_clipped: bool,
    ) -> Tensor:
        mask_clipped = mask_clipped and ctx.needs_input_grad[0]
        if mask_clipped:
            scales = fit(x, fmt, axis=axis) if scales is None else scales
            ctx.save_for_backward(in_range(x, fmt, scales, axis))
        ctx.cast, ctx.masked = backward, mask_clipped
        return fake_quantize(x, fmt, axis=axis, scales=scales)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad = rounded(grad, ctx.cast)
        if ctx.masked:
            grad = grad * ctx.saved_tensors[0]
        return grad, None, None, None, None, None


class _Product(Function):
    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor | None,
        a: Tensor,
        b: Tensor,
        formats: ProductFormats,
        beta: float,
        alpha: float,
    ) -> Tensor:
        ctx.save_for_backward(a, b)
        ctx.formats, ctx.beta, ctx.alpha = formats, beta, alpha
        ctx.input_dtype = None if input is None else input.dtype
        dtype = formats.compute_dtype or a.dtype
        product = rounded(a, formats.a).to(dtype) @ rounded(b, formats.b).to(dtype)
        if input is None:
            return product
        return beta * input + alpha * product

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (a, b), formats = ctx.saved_tensors, ctx.formats
        wanted_input, wanted_a, wanted_b = ctx.needs_input_grad[:3]
        dtype = formats.compute_dtype or a.dtype
        grad_input = grad_a = grad_b = None

        def operand(x: Tensor, cast: Cast | None) -> Tensor:
            return rounded(x, cast).to(dtype)

        if wanted_input:
            grad_input = (ctx.beta * operand(grad, formats.grad_for_input)).to(ctx.input_dtype)
        if wanted_a:
            scaled = ctx.alpha * operand(grad, formats.grad_for_a)
            grad_a = (scaled @ operand(b, formats.b_for_a).mT).to(a.dtype)
        if wanted_b:
            scaled = ctx.alpha * operand(grad, formats.grad_for_b)
            grad_b = (operand(a, formats.a_for_b).mT @ scaled).to(b.dtype)
        return grad_input, grad_a, grad_b, None, None, None
