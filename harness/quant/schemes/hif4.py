"""HiF4 and its family: three levels of scales over a fixed-point element (arXiv 2602.11287).

    64 elements share a scale sf (E6M2),  8 of them a factor 2^l2,  4 of those a factor 2^l3     l2, l3 in {0, 1}
    x ~ q * 2^l3 * 2^l2 * sf         q: sign and N-1 bits, magnitudes 0 .. 2 - 2^-(N-2) by 2^-(N-2)

An element costs N bits and a group of 64 another 32, so HiF4 has 4.5 bits. `HiF` is the format of the paper:

    sf  = e6m2(bf16(m64 * bf16(1/7)))                 m64, m8, m4: largest magnitude of 64, 8, 4 elements
    rec = bf16(1 / sf)                                7 = 2^2 * 1.75 is the largest value the two factors leave
    l2  = [m8 * rec >= 4]        l3 = [m4 * rec * 2^-l2 >= 2]
    q   = round(|x| * 2^-l2 * 2^-l3 * rec), half away from zero, saturating

The rounding to bf16 before E6M2 is part of it. A group of zeros has sf = 2^-48; NaN in a group makes all of it NaN;
infinity gives 344064, the largest value there is.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.formats.base import Rounding
from harness.formats.integer import Integer
from harness.formats.unsigned_float import UnsignedFloat
from harness.quant.granularity import Granularity
from harness.quant.tensor import ScalePlane, Scales

E6M2 = UnsignedFloat(exponent_bits=6, mantissa_bits=2, bias=48)
GROUPS = (Granularity(block=(1, 4)), Granularity(block=(1, 8)), Granularity(block=(1, 64)))
"""Of l3, l2 and sf."""
PIECE = 2**20
"""Elements that are looked at together."""
Levels = tuple[Tensor, Tensor, Tensor]
"""One number for every 4, 8 and 64 elements."""
INVERSE_OF_7 = 0.142578125
"""bf16(1/7)."""


def fixed_point(bits: int, rounding: Rounding = "half_away") -> Integer:
    """Return the element of `bits` bits: magnitudes below 2, `bits - 2` of them after the point."""
    return Integer(bits=bits, fraction_bits=bits - 2, rounding=rounding)


def by_rows(x: Tensor, levels: Callable[[Tensor], Levels]) -> Levels:
    """Return the levels of a tensor, worked out piece by piece: those of 4 elements are large themselves."""
    if x.is_meta or not x.numel():
        return levels(x)
    rows = x.reshape(-1, x.shape[-1])
    step = max(1, PIECE // rows.shape[1])
    counts = (group.scale_shape(rows.shape) for group in GROUPS)
    four, eight, group = (torch.empty(count, device=x.device) for count in counts)
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        four[part], eight[part], group[part] = levels(rows[part])
    leading = x.shape[:-1]
    return four.view(*leading, -1), eight.view(*leading, -1), group.view(*leading, -1)


def group_maxima(x: Tensor) -> Levels:
    """Return the largest magnitudes of 4, 8 and 64 elements, float32."""
    m4 = GROUPS[0].reduce(
        x, lambda blocks, axes: torch.maximum(blocks.amax(axes), -blocks.amin(axes))
    )
    m4 = m4.float()
    m8 = Granularity(block=(1, 2)).reduce(m4, lambda blocks, axes: blocks.amax(axes))
    m64 = Granularity(block=(1, 8)).reduce(m8, lambda blocks, axes: blocks.amax(axes))
    return m4, m8, m64


def planes(factor4: Tensor, factor8: Tensor, scale: Tensor) -> Scales:
    """Return the three levels, finest first."""
    bits = (1, 1, E6M2.bits)
    levels = zip((factor4, factor8, scale), GROUPS, bits, strict=True)
    return Scales(planes=tuple(ScalePlane(values=v, granularity=g, bits=b) for v, g, b in levels))


def over(values: Tensor, ratio: int, like: Tensor) -> Tensor:
    """Return `values` of a coarser level, repeated to the shape of a finer one."""
    return Granularity(block=(1, ratio)).expand(values, like.shape)


@dataclass(frozen=True, kw_only=True, slots=True)
class HiF:
    """HiF2 to HiF5 as the paper defines HiF4; see the module docstring and `TensorFormat`."""

    bits: int = 4
    """Bits of an element: 2 to 5."""

    def __post_init__(self) -> None:
        """Refuse widths the family does not have."""
        if not 2 <= self.bits <= 5:
            raise ValueError(f"bits must be 2..5, got {self.bits}")

    @property
    def name(self) -> str:
        """`hif4`."""
        return f"hif{self.bits}"

    @property
    def element(self) -> Integer:
        """Fixed point below 2."""
        return fixed_point(self.bits)

    @property
    def granularity(self) -> Granularity:
        """Groups of 64."""
        return GROUPS[-1]

    def fit(self, x: Tensor) -> Scales:
        """Return sf and both factors of each group."""
        return planes(*by_rows(x, self._levels))

    def _levels(self, x: Tensor) -> Levels:
        m4, m8, m64 = group_maxima(x)
        scale = E6M2.round((m64 * INVERSE_OF_7).bfloat16().float())
        reciprocal = (1.0 / scale).bfloat16().float()
        rec8 = over(reciprocal, 8, m8)
        factor8 = 1.0 + (m8 * rec8 >= 4)
        inner = over(rec8, 2, m4) / over(factor8, 2, m4)
        factor4 = 1.0 + (m4 * inner >= 2)
        return factor4, factor8, scale

    def to_grid(
        self, x: Tensor, scales: Scales, generator: torch.Generator | None = None
    ) -> Tensor:
        """Multiply by the bf16 reciprocal of sf and round."""
        factor4, factor8, scale = (plane.values for plane in scales.planes)
        reciprocal = (1.0 / scale).bfloat16().float()
        both = factor4 * over(factor8, 2, factor4)
        unit = over(over(reciprocal, 8, factor8), 2, factor4) / both
        fours = GROUPS[0]
        blocks = fours.blocked(x) * fours.aligned(unit)
        return fours.unblocked(self.element.round(blocks, generator), x.shape)
