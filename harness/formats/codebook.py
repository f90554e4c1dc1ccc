"""Any table of values: NF4, bitsandbytes' FP4, or one of your own.

The code of a number is the index of the nearest level. Exactly between two levels it is the lower
one, as in bitsandbytes on a CPU. Midpoints are float32. NF4: Dettmers et al., "QLoRA", 2023, and
bitsandbytes' `create_normal_map`.

How a level is found:

    1  sort the levels; the rank of x is the number of midpoints below x
    2  cut the span of the levels into equal bins, so fine that no bin holds two midpoints
    3  rank of x = midpoints in lower bins + [x > the midpoint of its own bin]

Step 3 is two look-ups and a comparison, several times faster than a binary search. Levels too close
for bins are found by binary search.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

LEVELS: dict[str, tuple[float, ...]] = {
    # Quantiles of the normal distribution, eight above and seven below an exact zero: appendix E of
    # the QLoRA paper.
    "nf4": (
        *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
        *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
        *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
        *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
    ),
    # A sign and three bits of magnitude. Values are twelfths, in the order of bitsandbytes' codes.
    "fp4": tuple(
        sign * level / 12 for sign in (1, -1) for level in (0.0, 0.0625, 8, 12, 4, 6, 2, 3)
    ),
}
"""Levels of the named codebooks, in the order of their codes."""

LARGEST_LEVEL = 1e30
"""Keeps sums of two levels, and so their midpoints, finite in float32."""
MOST_BINS = 2**16
SMALLEST_SPAN = 1e-30
"""Least distance of the outer levels for bins: the number of bins per unit must be a float32."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Codebook:
    """Rounds to the nearest of its levels; see the module docstring and `NumberFormat`."""

    name: str
    """Name of the format; a published one, such as `nf4`, brings its levels."""
    levels: tuple[float, ...] = ()
    """Values in the order of their codes; by default `LEVELS[name]`."""
    ties: Literal["lower", "away"] = "lower"
    """Where a number exactly between two levels goes: down, or away from zero."""

    def __post_init__(self) -> None:
        """Fill in the levels of a known name, and check them."""
        if not self.levels:
            if self.name not in LEVELS:
                known = ", ".join(LEVELS)
                raise ValueError(f"levels must be given unless name is {known}, got {self.name!r}")
            object.__setattr__(self, "levels", LEVELS[self.name])
        finite = all(abs(level) < LARGEST_LEVEL for level in self.levels)
        if len(self.levels) > 256 or len(set(self.levels)) < 2 or not finite:
            raise ValueError(
                "levels must be at most 256 finite numbers, two different ones at least, "
                f"got {self.levels}"
            )

    @property
    def bits(self) -> int:
        """The least number of bits that has a code for every level."""
        return (len(self.levels) - 1).bit_length()

    @property
    def max(self) -> float:
        """The largest magnitude of a level."""
        return max(abs(level) for level in self.levels)

    def values(self) -> Tensor:
        """Return the levels, ascending, each once."""
        # -0.0 + 0.0 is 0.0: FP4's two zeros become one.
        values: Tensor = torch.unique(_search(self).levels + 0.0)
        return values

    def round(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:  # noqa: ARG002
        """Return the nearest level; NaN stays NaN. Rounding is never stochastic."""
        x = x.float()
        found = _search(self)
        nearest = found.levels.to(x.device).index_select(0, self._index(x).flatten())
        return torch.where(x.isnan(), x, nearest.view(x.shape))

    def encode(self, values: Tensor) -> Tensor:
        """Return the index of each value in `levels`, uint8; NaN becomes the lowest level."""
        found = _search(self)
        index = self._index(values)
        if found.has_both_zeros:
            # bitsandbytes' FP4 has two zeros. Sorted, the negative one follows the other.
            index += (values == 0) & values.signbit()
        return found.codes.to(values.device).index_select(0, index.flatten()).view(values.shape)

    def decode(self, codes: Tensor) -> Tensor:
        """Return the level of each code."""
        levels = torch.tensor(self.levels, device=codes.device)
        return levels.index_select(0, codes.flatten().int()).view(codes.shape)

    def _index(self, x: Tensor) -> Tensor:
        """Return the rank of the nearest level among the sorted ones, int32; 0 for NaN."""
        found = _search(self)
        x = x.nan_to_num(nan=-torch.inf)
        if found.bins is None:
            return torch.bucketize(x.contiguous(), found.midpoints.to(x.device), out_int32=True)
        return found.bins.rank(x)


@dataclass(frozen=True, slots=True, eq=False)
class _Bins:
    """Equal bins with at most one midpoint in each; step 2 of the module docstring.

    `index` computes the bin of a midpoint and the bin of a number with the same monotone float32
    arithmetic. A rounding error moves both alike, so the rank is exact.
    """

    low: float
    """The lowest level: where the first bin begins."""
    per_unit: float
    """Bins per unit of x."""
    below: Tensor
    """int32 `[bins]`: how many midpoints lie in lower bins."""
    midpoint: Tensor
    """float32 `[bins]`: the midpoint in the bin, or infinity."""

    def index(self, x: Tensor) -> Tensor:
        """Return the bin of each number, int32."""
        return ((x - self.low) * self.per_unit).clamp_(0, len(self.below) - 1).int()

    def rank(self, x: Tensor) -> Tensor:
        """Return how many midpoints are below each number, int32."""
        index = self.index(x).flatten()
        midpoint = self.midpoint.to(x.device).index_select(0, index).view(x.shape)
        rank = self.below.to(x.device).index_select(0, index).view(x.shape)
        return rank.add_(x > midpoint)


@dataclass(frozen=True, slots=True, eq=False)
class _Search:
    """What `round` and `encode` need of one codebook."""

    levels: Tensor
    """float32, ascending."""
    codes: Tensor
    """The code of each level, uint8."""
    has_both_zeros: bool
    midpoints: Tensor
    bins: _Bins | None
    """None if some midpoints are too close together for bins."""


@lru_cache
def _search(book: Codebook) -> _Search:
    levels, codes = torch.tensor(book.levels).sort(stable=True)
    midpoints = torch.stack([(low + high) / 2 for low, high in pairwise(levels)])
    if book.ties == "away":
        # A positive tie goes up: put the border just below the midpoint.
        below = torch.nextafter(midpoints, torch.full_like(midpoints, -torch.inf))
        midpoints = torch.where(midpoints > 0, below, midpoints)
    return _Search(
        levels=levels,
        codes=codes.to(torch.uint8),
        has_both_zeros=int((levels == 0).sum()) == 2,
        midpoints=midpoints,
        bins=_bins(levels, midpoints),
    )


def _bins(levels: Tensor, midpoints: Tensor) -> _Bins | None:
    """Return the coarsest bins that separate the midpoints: 2^n bins a level, or None."""
    low, span = float(levels[0]), float(levels[-1] - levels[0])
    size = len(levels)
    while size <= MOST_BINS and span > SMALLEST_SPAN:
        below, midpoint = torch.zeros(size, dtype=torch.int32), torch.full((size,), torch.inf)
        bins = _Bins(low, size / span, below, midpoint)
        found = bins.index(midpoints)
        # Separated: no two midpoints in one bin.
        if len(set(found.tolist())) == len(found):
            midpoint[found.long()] = midpoints
            below += torch.bucketize(torch.arange(size), found.long())
            return bins
        size *= 2
    return None
