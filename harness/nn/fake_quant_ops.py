"""The formats and gradients of Charles2530/fake_quant_ops, so that its results can be reproduced.

Its `quant_hif8`, `nvfp8` and `nvfp4` have one scale for the whole tensor. They multiply by it and
divide by it again:

    s = target / (absmax + epsilon)       epsilon = 2^-23, and 1e-12 inside its `nvfp_matmul`

Its `nvfp4` is not NVFP4: it has no blocks, and 19 magnitudes instead of 8. None of these formats
has a standard name here.

Its matmuls exist in two states. `readme` does what its README describes: gradients use unrounded
operands. `head` is its last commit: gradients are rounded along the axes of the forward matmul,
and summed over other axes.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from harness.formats import float32
from harness.formats.base import NumberFormat
from harness.formats.codebook import Codebook
from harness.formats.hif8 import HiF8
from harness.formats.minifloat import E2M1, E4M3
from harness.nn.ops import Cast, MatmulFormats
from harness.quant.granularity import Granularity
from harness.quant.range import Range
from harness.quant.schemes.block_scaled import BlockScaled
from harness.quant.tensor import ScalePlane, Scales, TensorFormat

EPSILON = 2.0**-23
EPSILON_OF_MATMULS = 1e-12
MAGNITUDES = (
    *(step / 8 for step in range(8)),
    *(1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0),
)
"""Grid of the repository's `nvfp4`: eighths below 1, two mantissa bits from 1 on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetScale:
    """`target / (absmax + epsilon)`, one scale for all matrices of a tensor; see `ScaleRule`.

    Dequantization divides codes by it.
    """

    prefix: ClassVar[str] = "fqo_"
    suffix: ClassVar[str] = ""

    target: float
    epsilon: float = EPSILON

    def fit(
        self,
        measured: Range,
        element: NumberFormat,  # noqa: ARG002
        granularity: Granularity,
    ) -> Scales:
        """Return the same scale for every matrix."""
        # `amax()` over all matrices: one scale for the whole tensor.
        absmax = measured.absmax
        scale = self.target / (absmax.amax().expand(absmax.shape) + self.epsilon)
        plane = ScalePlane(values=scale.contiguous(), granularity=granularity, bits=float32.BITS)
        return Scales(planes=(plane,), inverse=True)

    def divide(self, blocks: Tensor, scales: Scales) -> Tensor:
        """Multiply by the scale."""
        plane = scales.planes[0]
        return blocks * plane.granularity.aligned(plane.values)


def _whole(element: NumberFormat, target: float, epsilon: float = EPSILON) -> BlockScaled:
    return BlockScaled(
        element=element,
        granularity=Granularity(block=(-1, -1)),
        scale=TargetScale(target=target, epsilon=epsilon),
    )


def hif8() -> BlockScaled:
    """Return the repository's `quant_hif8`: HiF8 of numbers scaled to magnitudes up to 8."""
    return _whole(HiF8(overflow="saturate"), 8.0)


def nvfp8(epsilon: float = EPSILON) -> BlockScaled:
    """Return the repository's `nvfp8_e4m3`: per-tensor FP8."""
    return _whole(E4M3, E4M3.max, epsilon)


def nvfp4(epsilon: float = EPSILON) -> BlockScaled:
    """Return the repository's `nvfp4_e2m1`, which is not NVFP4."""
    # 37 levels: 18 magnitudes of both signs and zero.
    levels = tuple(sign * magnitude for magnitude in MAGNITUDES for sign in (1, -1))
    book = Codebook(name="nvfp4", levels=tuple(sorted(set(levels))), ties="away")
    return _whole(book, E2M1.max, epsilon)


def readme(fmt: TensorFormat) -> MatmulFormats:
    """Return the matmul of the README there: rounded forward, gradients of unrounded operands."""
    return MatmulFormats(a=Cast(format=fmt, axis=-1), b=Cast(format=fmt, axis=-2))


def head(fmt: TensorFormat, compute_dtype: torch.dtype | None = None) -> MatmulFormats:
    """Return the matmul of the last commit there.

    Gradients are rounded along the axes of the forward matmul.
    """
    rows, columns = Cast(format=fmt, axis=-1), Cast(format=fmt, axis=-2)
    return MatmulFormats(
        a=rows,
        b=columns,
        grad_for_a=rows,
        b_for_a=columns,
        a_for_b=rows,
        grad_for_b=rows,
        grad_for_input=rows,
        compute_dtype=compute_dtype,
    )
