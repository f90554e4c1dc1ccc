"""From the negative log-likelihoods of items to figures with intervals.

    nll = sum of y_i / sum of x_i       over items i: y_i the NLL of its tokens [nat], x_i their number
    PPL = exp(nll)

The items (windows, documents) are the independent units. Tokens of one text are not, and an interval that took them for
independent would be several times too narrow. Items of unequal length make a ratio of two sums, whose interval is that
of the mean of its linearized values (Cochran, "Sampling Techniques", 1977, chapter 6),

    z_i = nll + (y_i - nll * x_i) / mean(x)

For items of equal length these are the items' means. How many tokens a word or a byte takes is taken as given.
"""

import math
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from harness import stats
from harness.results.record import Metric, Unit
from harness.tasks.segments import Nll, Segments

LARGEST = math.log(sys.float_info.max)
TOO_LARGE = "no value: too large for a float; the recipe destroys this model"


class Mean(NamedTuple):
    """A mean NLL a token, over items."""

    value: float
    """[nat/token]."""
    interval: stats.Interval | None
    num_tokens: int
    item: str
    """What the items are, such as `window`."""


def mean_nll(sums: Sequence[float], counts: Sequence[int], item: str) -> Mean:
    """Return the mean a token, given the NLL and the number of tokens of each item."""
    num_tokens = sum(counts)
    value, average = math.fsum(sums) / num_tokens, num_tokens / len(counts)
    linear = [value + (y - value * x) / average for y, x in zip(sums, counts, strict=True)]
    return Mean(value, stats.mean_interval(linear), num_tokens, item)


def mean_over(items: Sequence[Nll], item: str) -> Mean:
    """Return the mean over the tokens of items, summed in float64."""
    return mean_nll([total(nll) for nll in items], [len(nll) for nll in items], item)


def total(nll: Nll) -> float:
    """Return the sum in float64."""
    return float(nll.sum(dtype="float64"))


def exp(nll: float) -> float:
    """Return the exponential, infinite where it is too large for a float."""
    return math.exp(nll) if nll < LARGEST else math.inf


def figure(
    mean: Mean, finish: Callable[[float], float], note: str | None = None, **fields: Any
) -> Metric:
    """Return the metric that `finish` makes of a mean and of the ends of its interval; `fields` are its other fields."""
    value, found = finish(mean.value), mean.interval
    ends = found and (finish(found.low), finish(found.high))
    missing = None
    if math.isinf(value):
        missing = TOO_LARGE
    elif ends is None:
        missing = f"no interval from fewer than {stats.MIN_CLUSTERS} {mean.item}s"
    elif math.isinf(ends[1]):
        missing = "no interval: its end is too large for a float"
    return Metric(
        value=None if math.isinf(value) else value,
        ci95=None if missing else ends,
        higher_is_better=False,
        note="; ".join(filter(None, (note, missing))) or None,
        **fields,
    )


def perplexity_figure(mean: Mean, name: str = "perplexity", note: str | None = None) -> Metric:
    """Return the perplexity a token."""
    return figure(mean, exp, note, name=name, unit=Unit.ONE, n=mean.num_tokens, n_of="token")


def text_figures(mean: Mean, cut: Segments) -> list[Metric]:
    """Return the figures per token, word and byte of a text."""
    words, size = cut.scored_words, cut.scored_bytes
    per_word, per_byte = mean.num_tokens / words, mean.num_tokens / size
    token: dict[str, Any] = {"unit": Unit.NAT_PER_TOKEN, "n": mean.num_tokens, "n_of": "token"}
    word: dict[str, Any] = {"unit": Unit.ONE, "n": words, "n_of": "word"}
    byte: dict[str, Any] = {"unit": Unit.ONE, "n": size, "n_of": "byte"}
    bits: dict[str, Any] = byte | {"unit": Unit.BIT_PER_BYTE}
    return [
        perplexity_figure(mean),
        figure(mean, float, name="nll", **token),
        figure(mean, lambda nll: exp(nll * per_word), name="word_perplexity", **word),
        figure(mean, lambda nll: exp(nll * per_byte), name="byte_perplexity", **byte),
        figure(mean, lambda nll: nll * per_byte / math.log(2), name="bits_per_byte", **bits),
    ]


def running_perplexity(sums: Sequence[float], counts: Sequence[int]) -> str:
    """Return the perplexity so far with half the width of its interval, for a progress bar."""
    mean = mean_nll(sums, counts, "segment")
    shown = f"perplexity {exp(mean.value):.2f}"
    if mean.interval is None:
        return shown
    return f"{shown} ± {(exp(mean.interval.high) - exp(mean.interval.low)) / 2:.2g}"
