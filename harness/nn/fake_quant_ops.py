"""Compatibility with Charles2530/fake_quant_ops: the formats and gradients it computes under names that mean other things.

Its `quant_hif8`, `nvfp8` and `nvfp4` have one scale for the whole tensor, `s = target / (absmax + epsilon)`, multiply by
it and divide by it again; epsilon is 2^-23, but 1e-12 inside its `nvfp_matmul`. Its `nvfp4` is not NVFP4: no blocks, and the grid has 19 magnitudes instead of 8. They are here
so that old results can be reproduced, and never under the standard names.

Its products come in two states. `readme` is what its README describes: gradients use unrounded operands. `head` is its
last commit: gradients are rounded along the axes of the forward product, which are not those they are summed over.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from harness.formats.base import NumberFormat
from harness.formats.codebook import Codebook
from harness.formats.hif8 import HiF8
from harness.formats.minifloat import Minifloat
from harness.nn.ops import Cast, ProductFormats
from harness.quant.granularity import Granularity
from harness.quant.range import Range
from harness.quant.scale import FLOAT32_BITS
from harness.quant.schemes.block_scaled import BlockScaled
from harness.quant.tensor import ScalePlane, Scales, TensorFormat

EPSILON = 2.0**-23
EPSILON_OF_PRODUCTS = 1e-12
MAGNITUDES = (
    *(step / 8 for step in range(8)),
    *(1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0),
)
"""Of its `nvfp4`: two mantissa bits from 1/8 on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetScale:
    """One scale for the whole tensor, all its matrices, that divides codes: `target / (absmax + epsilon)`; see `ScaleRule`."""

    target: float
    epsilon: float = EPSILON

    @property
    def prefix(self) -> str:
        """`fqo_`."""
        return "fqo_"

    @property
    def suffix(self) -> str:
        """Empty."""
        return ""

    def fit(self, measured: Range, element: NumberFormat, granularity: Granularity) -> Scales:  # noqa: ARG002
        """Return the same scale for every matrix."""
        absmax = measured.absmax
        scale = self.target / (absmax.amax().expand(absmax.shape) + self.epsilon)
        plane = ScalePlane(values=scale.contiguous(), granularity=granularity, bits=FLOAT32_BITS)
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
    """Return its `quant_hif8`: HiF8 of numbers scaled to at most 8."""
    return _whole(HiF8(overflow="saturate"), 8.0)


def nvfp8(epsilon: float = EPSILON) -> BlockScaled:
    """Return its `nvfp8_e4m3`: FP8 with one scale."""
    return _whole(Minifloat(exponent_bits=4, mantissa_bits=3, specials="nan"), 448.0, epsilon)


def nvfp4(epsilon: float = EPSILON) -> BlockScaled:
    """Return its `nvfp4_e2m1`, which is not NVFP4."""
    levels = tuple(sign * magnitude for magnitude in MAGNITUDES for sign in (1, -1))
    book = Codebook(name="nvfp4", levels=tuple(sorted(set(levels))), ties="away")
    return _whole(book, 6.0, epsilon)


def readme(fmt: TensorFormat) -> ProductFormats:
    """Return the products of its README: rounded forward, gradients of unrounded operands."""
    return ProductFormats(a=Cast(format=fmt, axis=-1), b=Cast(format=fmt, axis=-2))


def head(fmt: TensorFormat, compute_dtype: torch.dtype | None = None) -> ProductFormats:
    """Return the products of its last commit: gradients rounded along the axes of the forward product."""
    rows, columns = Cast(format=fmt, axis=-1), Cast(format=fmt, axis=-2)
    return ProductFormats(
        a=rows,
        b=columns,
        grad_for_a=rows,
        b_for_a=columns,
        a_for_b=rows,
        grad_for_b=rows,
        grad_for_input=rows,
        compute_dtype=compute_dtype,
    )
