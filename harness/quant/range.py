"""What range of numbers a block of codes must cover: all of it, all but a few outliers, or what errs least.

The range of a block is `low <= 0 <= high`; symmetric formats use the larger magnitude of the two.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from harness.quant.granularity import Granularity
from harness.quant.tensor import Scales, TensorFormat


class Range(NamedTuple):
    """The range of every block, float32, shape `granularity.scale_shape(tensor.shape)`."""

    low: Tensor
    high: Tensor
    unclipped: Tensor | None = None
    """The largest magnitudes before anything was clipped, where something is: what a scale of a whole matrix rests on."""

    @property
    def absmax(self) -> Tensor:
        """The largest magnitude of every block."""
        # Not -low: that of a block of zeros would be a negative zero.
        return torch.maximum(self.low.abs(), self.high)

    def scaled(self, ratio: float | Tensor) -> "Range":
        """Return both ends times a ratio, and what was there before."""
        return Range(self.low * ratio, self.high * ratio, self.peak)

    @property
    def peak(self) -> Tensor:
        """The largest magnitude of every block, clipped ones included."""
        return self.absmax if self.unclipped is None else self.unclipped

    def union(self, other: "Range") -> "Range":
        """Return the smallest range that covers both."""
        return Range(torch.minimum(self.low, other.low), torch.maximum(self.high, other.high))


@runtime_checkable
class RangeRule(Protocol):
    """Chooses the range of every block of a tensor."""

    @property
    def suffix(self) -> str:
        """What the name of a format says of it."""

    def measure(
        self, x: Tensor, granularity: Granularity, rounded: Callable[[Range], Tensor]
    ) -> Range:
        """Return the ranges of `x`; `rounded(range)` is what a choice would make of it. NaN in a block makes its range NaN."""


def _ends(x: Tensor, granularity: Granularity) -> Range:
    """Return the least and the largest value of every block, zero included."""
    low = granularity.reduce(x, lambda blocks, axes: blocks.amin(axes))
    high = granularity.reduce(x, lambda blocks, axes: blocks.amax(axes))
    return Range(low.float().clamp_(max=0), high.float().clamp_(min=0))


@runtime_checkable
class Ranged(Protocol):
    """A tensor format whose scales follow from ranges."""

    @property
    def range(self) -> RangeRule:
        """What ranges are chosen by."""

    @property
    def granularity(self) -> Granularity:
        """Which elements share a range."""

    def scales_of(self, measured: Range) -> Scales:
        """Return the scales that cover given ranges."""

    def to_grid(self, x: Tensor, scales: Scales) -> Tensor:
        """Round `x` under given scales."""


@runtime_checkable
class StaticFormat(TensorFormat, Protocol):
    """A format whose scales follow from ranges that were measured before."""

    def measure(self, x: Tensor) -> Range:
        """Return the range of every block."""

    def scales_of(self, measured: Range) -> Scales:
        """Return the scales that cover given ranges."""


def choose(fmt: Ranged, x: Tensor) -> Range:
    """Return the range of every block, chosen by the rule of the format."""

    def rounded(candidate: Range) -> Tensor:
        scales = fmt.scales_of(candidate)
        return scales.apply(fmt.to_grid(x.float(), scales))

    return fmt.range.measure(x, fmt.granularity, rounded)


@dataclass(frozen=True, kw_only=True, slots=True)
class AbsMax:
    """Everything in the block, or that times a ratio."""

    ratio: float = 1.0
    """Below 1 the largest values are clipped."""

    def __post_init__(self) -> None:
        """Refuse ratios that clip everything."""
        if not 0 < self.ratio <= 1:
            raise ValueError(f"ratio must be in (0, 1], got {self.ratio}")

    @property
    def suffix(self) -> str:
        """Empty unless something is clipped."""
        return "" if self.ratio == 1 else f"_clip{self.ratio:g}"

    def measure(
        self,
        x: Tensor,
        granularity: Granularity,
        rounded: Callable[[Range], Tensor],  # noqa: ARG002
    ) -> Range:
        """Return smallest and largest value, zero included."""
        ends = _ends(x, granularity)
        return ends if self.ratio == 1 else ends.scaled(self.ratio)


@dataclass(frozen=True, kw_only=True, slots=True)
class Percentile:
    """All but the largest magnitudes: those beyond a percentile (nearest rank) are clipped."""

    percent: float = 99.9
    """The percentile, such as 99.9."""

    def __post_init__(self) -> None:
        """Refuse what is no percentage."""
        if not 0 < self.percent <= 100:
            raise ValueError(f"percent must be in (0, 100], got {self.percent}")

    @property
    def suffix(self) -> str:
        """The percentage."""
        return f"_p{self.percent:g}"

    def measure(
        self,
        x: Tensor,
        granularity: Granularity,
        rounded: Callable[[Range], Tensor],  # noqa: ARG002
    ) -> Range:
        """Return both ends of each block, cut to its percentile of magnitudes."""
        bound = granularity.reduce(x, self._rank).float()
        ends = _ends(x, granularity)
        low, high = torch.maximum(ends.low, -bound), torch.minimum(ends.high, bound)
        return Range(low, high, ends.peak)

    def _rank(self, blocks: Tensor, axes: tuple[int, ...]) -> Tensor:
        kept = [axis for axis in range(blocks.dim()) if axis not in axes]
        magnitudes = blocks.abs().permute(*kept, *axes).flatten(len(kept))
        count = magnitudes.shape[-1]
        rank = max(1, -int(-count * self.percent // 100))
        return magnitudes.kthvalue(rank, dim=-1).values


@dataclass(frozen=True, kw_only=True, slots=True)
class MseSearch:
    """The ratio of the full range with the least squared error, block by block; of equals the first."""

    ratios: tuple[float, ...] = tuple(1 - step / 40 for step in range(24))
    """Candidates; by default 1 down to 0.425 in steps of 0.025."""

    def __post_init__(self) -> None:
        """Refuse candidates that clip everything."""
        if not self.ratios or not all(0 < ratio <= 1 for ratio in self.ratios):
            raise ValueError(f"ratios must be in (0, 1], got {self.ratios}")

    @property
    def suffix(self) -> str:
        """`_mse`."""
        return "_mse"

    def measure(
        self, x: Tensor, granularity: Granularity, rounded: Callable[[Range], Tensor]
    ) -> Range:
        """Try every ratio on every block. Holds several float32 arrays of the size of `x`."""
        full = _ends(x, granularity)
        least = torch.full_like(full.low, torch.inf)
        best = torch.full_like(full.low, self.ratios[0])
        for ratio in self.ratios:
            squares = rounded(full.scaled(ratio)).sub_(x).square_()
            error = granularity.reduce(squares, lambda blocks, axes: blocks.sum(axes))
            better = error < least
            least = torch.where(better, error, least)
            best = torch.where(better, ratio, best)
        return full.scaled(best)
