"""Rounding and matmuls with gradients, for quantization-aware and low-precision training.

`fake_quantize_ste` rounds in the forward pass and passes the gradient straight through (Bengio et
al., arXiv 1308.3432). The gradient can be rounded too, and set to 0 where a number was clipped.

    Y = A B              A [.., M, K], B [.., K, N]         `matmul`
    Y = beta I + alpha A B                                  `baddbmm`
    dA = G B^T,  dB = A^T G,  dI = beta G                   G: gradient of Y

`MatmulFormats` says which operands of these matmuls are rounded, and along which axis their blocks
run. A kernel sums over the contraction axis, so blocks belong there: K in the forward pass, N for
dA, M for dB. `along_contraction` builds such formats. The forward pass saves unrounded operands,
and each matmul rounds them in its own way.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from harness.formats.base import NumberFormat
from harness.quant.primitives import fake_quantize, fit
from harness.quant.tensor import Scales, TensorFormat, move_blocks_last, restore_axis


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
class MatmulFormats:
    """The rounding of every operand of a matmul and of its gradients; None leaves one in float."""

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
    """Type of the matmuls and of the forward result; None is the type of A."""


def along_contraction(
    a: TensorFormat | None, b: TensorFormat | None, *, backward: TensorFormat | None = None
) -> MatmulFormats:
    """Return the formats of a matmul with all blocks along the contraction axis.

    Args:
        a: Format of A, None for float.
        b: Format of B, None for float.
        backward: Format of all four operands of the gradients; None keeps them in float.
    """

    def cast(fmt: TensorFormat | None, axis: int) -> Cast | None:
        return None if fmt is None else Cast(format=fmt, axis=axis)

    return MatmulFormats(
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
    """Return `x` rounded to a format; the gradient goes straight through.

    Args:
        x: Tensor of any shape.
        fmt: Format of the forward pass.
        axis: Axis that blocks run along.
        scales: Scales to use; fitted to `x` if None.
        backward: Rounding of the gradient.
        mask_clipped: Set the gradient to 0 where `x` is outside of the range of its block.
    """
    arguments = (x, fmt, axis, scales, backward, mask_clipped)
    result: Tensor = _StraightThrough.apply(*arguments)  # type: ignore[no-untyped-call]
    return result


def matmul(a: Tensor, b: Tensor, formats: MatmulFormats) -> Tensor:
    """Return `a @ b` of rounded operands, which need the same number of axes: two or more.

    Raises:
        ValueError: The shapes do not fit.
    """
    _check_shapes(a, b)
    result: Tensor = _Matmul.apply(None, a, b, formats, 0.0, 1.0)  # type: ignore[no-untyped-call]
    return result


def baddbmm(
    input: Tensor,
    a: Tensor,
    b: Tensor,
    formats: MatmulFormats,
    *,
    beta: float = 1.0,
    alpha: float = 1.0,
) -> Tensor:
    """Return `beta * input + alpha * (a @ b)` of rounded `a` and `b`; `input` is not rounded."""
    _check_shapes(a, b)
    arguments = (input, a, b, formats, beta, alpha)
    result: Tensor = _Matmul.apply(*arguments)  # type: ignore[no-untyped-call]
    return result


def qkv(
    q: Tensor, k: Tensor, v: Tensor, fmt: TensorFormat, *, backward: Cast | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return query, key and value rounded along their last axis, gradients straight through."""
    rounded_q, rounded_k, rounded_v = (
        fake_quantize_ste(x, fmt, backward=backward) for x in (q, k, v)
    )
    return rounded_q, rounded_k, rounded_v


def _check_shapes(a: Tensor, b: Tensor) -> None:
    fits = a.dim() == b.dim() >= 2 and a.shape[-1] == b.shape[-2] and a.shape[:-2] == b.shape[:-2]
    if not fits:
        raise ValueError(
            "a and b must be [.., M, K] and [.., K, N] with equal leading axes, "
            f"got {tuple(a.shape)} and {tuple(b.shape)}"
        )


def in_range(x: Tensor, fmt: TensorFormat, scales: Scales, axis: int = -1) -> Tensor:
    """Return a mask of the numbers that are not clipped.

    A number is clipped if it is more than half a step beyond the largest value of its block.
    """
    flat = fmt.granularity.flat
    seen = move_blocks_last(x, axis, flat=flat).float()
    # The limits of the element format, in units of x: one number for each block.
    low, high = (scales.apply(torch.full_like(seen, end)) for end in _borders(fmt.element))
    return restore_axis((seen >= low) & (seen <= high), x.shape, axis, flat=flat)


def _borders(element: NumberFormat) -> tuple[float, float]:
    """Return the limits of clipping: half a step beyond the smallest and the largest value."""
    # Wide formats do not list their values. Half a step of theirs is too small to matter.
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
        # The mask is worth its memory only if somebody asks for the gradient.
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


class _Matmul(Function):
    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor | None,
        a: Tensor,
        b: Tensor,
        formats: MatmulFormats,
        beta: float,
        alpha: float,
    ) -> Tensor:
        # Unrounded, because the backward matmuls round along other axes.
        ctx.save_for_backward(a, b)
        ctx.formats, ctx.beta, ctx.alpha = formats, beta, alpha
        ctx.input_dtype = None if input is None else input.dtype
        dtype = formats.compute_dtype or a.dtype
        result = rounded(a, formats.a).to(dtype) @ rounded(b, formats.b).to(dtype)
        if input is None:
            return result
        return beta * input + alpha * result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (a, b), formats = ctx.saved_tensors, ctx.formats
        wanted_input, wanted_a, wanted_b = ctx.needs_input_grad[:3]
        dtype = formats.compute_dtype or a.dtype
        grad_input = grad_a = grad_b = None

        def operand(x: Tensor, cast: Cast | None) -> Tensor:
            return rounded(x, cast).to(dtype)

        # dI = beta G
        if wanted_input:
            grad_input = (ctx.beta * operand(grad, formats.grad_for_input)).to(ctx.input_dtype)
        # dA = alpha G B^T
        if wanted_a:
            scaled = ctx.alpha * operand(grad, formats.grad_for_a)
            grad_a = (scaled @ operand(b, formats.b_for_a).mT).to(a.dtype)
        # dB = alpha A^T G
        if wanted_b:
            scaled = ctx.alpha * operand(grad, formats.grad_for_b)
            grad_b = (operand(a, formats.a_for_b).mT @ scaled).to(b.dtype)
        return grad_input, grad_a, grad_b, None, None, None
