"""Which range of a block its codes cover: all of it, all but outliers, or the least squared error.

The range of a block is `low <= 0 <= high`. Symmetric formats use the larger magnitude of both ends.
A range can be measured once and used later: `StaticFormat` is the protocol of such formats.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from harness.quant.granularity import Granularity
from harness.quant.tensor import Scales, TensorFormat


class Range(NamedTuple):
    """The range of every block, float32, shape `granularity.scale_shape(tensor.shape)`."""

    low: Tensor
    high: Tensor
    unclipped: Tensor | None = None
    """The largest magnitudes before clipping, where a rule clips. A scale of the whole matrix
    (NVFP4) is based on them."""

    @property
    def absmax(self) -> Tensor:
        """The largest magnitude of every block."""
        # abs, because -low of a block of zeros would be a negative zero.
        return torch.maximum(self.low.abs(), self.high)

    @property
    def peak(self) -> Tensor:
        """The largest magnitude of every block before clipping."""
        return self.absmax if self.unclipped is None else self.unclipped

    def scaled(self, ratio: float | Tensor) -> "Range":
        """Return both ends times a ratio; `peak` stays."""
        return Range(self.low * ratio, self.high * ratio, self.peak)

    def union(self, other: "Range") -> "Range":
        """Return the smallest range that covers both."""
        return Range(torch.minimum(self.low, other.low), torch.maximum(self.high, other.high))


@runtime_checkable
class RangeRule(Protocol):
    """Chooses the range of every block of a tensor."""

    @property
    def suffix(self) -> str:
        """What the name of a format ends with, such as `_mse`."""

    def measure(
        self, x: Tensor, granularity: Granularity, rounded: Callable[[Range], Tensor]
    ) -> Range:
        """Return the range of every block of `x`. NaN in a block makes its range NaN.

        Args:
            x: Tensor with the axis of the blocks last.
            granularity: The blocks.
            rounded: Returns `x` as rounded under a candidate range.
        """


@runtime_checkable
class StaticFormat(TensorFormat, Protocol):
    """A tensor format that measures ranges first and derives scales from them.

    `fit(x)` equals `scales_of(measure(x))`. Calibration measures the ranges of several tensors,
    takes their union, and derives the scales once: static scales.
    """

    def measure(self, x: Tensor) -> Range:
        """Return the range of every block."""

    def scales_of(self, measured: Range) -> Scales:
        """Return the scales that cover given ranges."""


def measure_ranges(fmt: StaticFormat, rule: RangeRule, x: Tensor) -> Range:
    """Return the range of every block of `x`, chosen by a rule that may try out the format."""

    def rounded(candidate: Range) -> Tensor:
        # What `fake_quantize` would return under these ranges, in float32.
        scales = fmt.scales_of(candidate)
        return scales.apply(fmt.to_grid(x.float(), scales))

    return rule.measure(x, fmt.granularity, rounded)


@dataclass(frozen=True, kw_only=True, slots=True)
class AbsMax:
    """The full range of a block. With ratio < 1 it shrinks and the largest values are clipped."""

    ratio: float = 1.0
    """Share of the full range, in (0, 1]."""

    def __post_init__(self) -> None:
        """Check that the ratio is in (0, 1]."""
        if not 0 < self.ratio <= 1:
            raise ValueError(f"ratio must be in (0, 1], got {self.ratio}")

    @property
    def suffix(self) -> str:
        """`_clip0.9` for a ratio of 0.9, empty for 1."""
        return "" if self.ratio == 1 else f"_clip{self.ratio:g}"

    def measure(
        self,
        x: Tensor,
        granularity: Granularity,
        rounded: Callable[[Range], Tensor],  # noqa: ARG002
    ) -> Range:
        """Return the smallest and the largest value of each block times `ratio`, zero included."""
        ends = _ends(x, granularity)
        return ends if self.ratio == 1 else ends.scaled(self.ratio)


@dataclass(frozen=True, kw_only=True, slots=True)
class Percentile:
    """The range up to a percentile of the magnitudes (nearest rank); larger values are clipped."""

    percent: float = 99.9
    """The percentile, such as 99.9."""

    def __post_init__(self) -> None:
        """Check that the percentage is in (0, 100]."""
        if not 0 < self.percent <= 100:
            raise ValueError(f"percent must be in (0, 100], got {self.percent}")

    @property
    def suffix(self) -> str:
        """`_p99.9`."""
        return f"_p{self.percent:g}"

    def measure(
        self,
        x: Tensor,
        granularity: Granularity,
        rounded: Callable[[Range], Tensor],  # noqa: ARG002
    ) -> Range:
        """Return both ends of each block, cut to the percentile of its magnitudes."""
        bound = granularity.reduce(x, self._percentile).float()
        ends = _ends(x, granularity)
        # `bound` is a magnitude: it cuts both ends. The unclipped peak is kept beside them.
        low, high = torch.maximum(ends.low, -bound), torch.minimum(ends.high, bound)
        return Range(low, high, ends.peak)

    def _percentile(self, blocks: Tensor, axes: tuple[int, ...]) -> Tensor:
        # kthvalue sorts one axis: move the axes inside a block to the end and join them.
        kept = [axis for axis in range(blocks.dim()) if axis not in axes]
        magnitudes = blocks.abs().permute(*kept, *axes).flatten(len(kept))
        count = magnitudes.shape[-1]
        # Nearest rank: ceil(count * percent / 100), at least the first.
        rank = max(1, -int(-count * self.percent // 100))
        return magnitudes.kthvalue(rank, dim=-1).values


@dataclass(frozen=True, kw_only=True, slots=True)
class MseSearch:
    """The ratio of the full range with the least squared error, for each block by itself.

    The first of equally good ratios counts.
    """

    suffix: ClassVar[str] = "_mse"

    ratios: tuple[float, ...] = tuple(1 - step / 40 for step in range(24))
    """Candidates; by default 1 down to 0.425 in steps of 0.025."""

    def __post_init__(self) -> None:
        """Check that there are candidates, all of them in (0, 1]."""
        if not self.ratios or not all(0 < ratio <= 1 for ratio in self.ratios):
            raise ValueError(f"ratios must be in (0, 1], got {self.ratios}")

    def measure(
        self, x: Tensor, granularity: Granularity, rounded: Callable[[Range], Tensor]
    ) -> Range:
        """Try every ratio on every block. Needs several float32 copies of `x`."""
        full = _ends(x, granularity)
        # Without values (meta device) there is nothing to try, and shapes are the same.
        if x.is_meta:
            return full
        # A block with NaN has NaN errors and keeps the first ratio.
        least = torch.full_like(full.low, torch.inf)
        best = torch.full_like(full.low, self.ratios[0])
        # Each ratio on all blocks at once; a block keeps the ratio if its own error is less.
        for ratio in self.ratios:
            squares = rounded(full.scaled(ratio)).sub_(x).square_()
            error = granularity.reduce(squares, torch.sum)
            better = error < least
            least = torch.where(better, error, least)
            best = torch.where(better, ratio, best)
        return full.scaled(best)


def _ends(x: Tensor, granularity: Granularity) -> Range:
    """Return the smallest and the largest value of every block, zero included."""
    # Reduced in the type of x, which is exact and fast, then float32.
    low, high = granularity.reduce(x, torch.amin), granularity.reduce(x, torch.amax)
    return Range(low.float().clamp_(max=0), high.float().clamp_(min=0))
