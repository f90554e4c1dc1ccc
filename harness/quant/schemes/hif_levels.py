"""Three levels of scales over a fixed-point element: what both generations of HiF4 share.

    x ~ q * 2^l3 * 2^l2 * sf
    sf: a scale of 64 elements;  l2: 0 or 1 for each 8 elements;  l3: 0 or 1 for each 4 elements
    q: a sign and N-1 bits, magnitudes 0 .. 2 - 2^-(N-2) in steps of 2^-(N-2)

Storage: N bits an element, and 32 bits for 64 elements (8 of sf, 8 of l2, 16 of l3), so HiF4 takes
4.5 bits an element. The generations differ in how they choose sf, l2 and l3 (`levels`).
"""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from harness.formats.integer import Integer
from harness.formats.unsigned_float import E6M2
from harness.quant import pieces
from harness.quant.granularity import Granularity
from harness.quant.tensor import ScalePlane, Scales

# Blocks of elements.
FOURS, EIGHTS, SIXTY_FOURS = (Granularity(block=(1, size)) for size in (4, 8, 64))
PAIRS, OCTETS = Granularity(block=(1, 2)), Granularity(block=(1, 8))
"""The fours in an eight, and the eights in a group."""


class Levels(NamedTuple):
    """One number for every 4, 8 and 64 elements of a row, float32."""

    four: Tensor
    eight: Tensor
    group: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class HiFLevels:
    """Base of `HiF` and `HiFv12`; see the module docstring and `TensorFormat`."""

    granularity: ClassVar[Granularity] = SIXTY_FOURS
    name_suffix: ClassVar[str] = ""

    bits: int = 4
    """Bits of an element: 2 to 5."""

    def __post_init__(self) -> None:
        """Check that the family has the width."""
        if not 2 <= self.bits <= 5:
            raise ValueError(f"bits must be 2..5, got {self.bits}")

    @property
    def name(self) -> str:
        """`hif4`, and `hif4_v12` of the first generation."""
        return f"hif{self.bits}{self.name_suffix}"

    @property
    def element(self) -> Integer:
        """Magnitudes below 2, `bits - 2` bits of them after the point."""
        return Integer(bits=self.bits, fraction_bits=self.bits - 2, rounding="half_away")

    def fit(self, x: Tensor) -> Scales:
        """Return sf and both factors of each group, the finest level first."""
        values = self._by_rows(x)
        # A factor is one bit: 2^0 or 2^1. sf is a code of E6M2, also where it is a power of two.
        granularities, bits = (FOURS, EIGHTS, SIXTY_FOURS), (1, 1, E6M2.bits)
        planes = zip(values, granularities, bits, strict=True)
        return Scales(
            planes=tuple(ScalePlane(values=v, granularity=g, bits=b) for v, g, b in planes)
        )

    def levels(self, x: Tensor) -> Levels:
        """Return 2^l3, 2^l2 and sf of every row of `x`."""
        raise NotImplementedError

    def _by_rows(self, x: Tensor) -> Levels:
        """Return `levels(x)`, worked out a few rows at a time: the maxima of fours are large."""
        # Nothing to cut: shapes only, or no elements.
        if x.is_meta or not x.numel():
            return self.levels(x)
        rows = x.reshape(-1, x.shape[-1])
        step = max(1, pieces.CPU_PIECE // rows.shape[1])
        counts = (
            granularity.scale_shape(rows.shape) for granularity in (FOURS, EIGHTS, SIXTY_FOURS)
        )
        # Room for all levels, filled by slices of rows.
        whole = Levels(*(torch.empty(count, device=x.device) for count in counts))
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            for target, found in zip(whole, self.levels(rows[part]), strict=True):
                target[part] = found
        return Levels(*(values.view(*x.shape[:-1], -1) for values in whole))


def group_maxima(x: Tensor) -> Levels:
    """Return the largest magnitudes of 4, 8 and 64 elements."""
    # max(largest, -smallest) needs no copy of |x|. Each level reduces the one below.
    m4 = FOURS.reduce(x, lambda fours, axes: torch.maximum(fours.amax(axes), -fours.amin(axes)))
    m4 = m4.float()
    m8 = PAIRS.reduce(m4, torch.amax)
    return Levels(m4, m8, OCTETS.reduce(m8, torch.amax))


def to_fours(values: Tensor, like: Tensor) -> Tensor:
    """Repeat numbers of eights `[.., n]` for their fours: shape of `like` `[.., 2 n]`."""
    return PAIRS.expand(values, like.shape)


def to_eights(values: Tensor, like: Tensor) -> Tensor:
    """Repeat numbers of groups `[.., n]` for their eights: shape of `like` `[.., 8 n]`."""
    return OCTETS.expand(values, like.shape)
