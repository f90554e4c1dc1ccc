"""From the negative log-likelihoods of tokens to figures with intervals.

    nll = sum of y_g / sum of x_g       over documents g: y_g the NLL of its tokens [nat], x_g their number
    PPL = exp(nll)

Documents are the independent units. Tokens of one text are not, and neither are its windows: the log-loss of neighbouring ones
correlates (0.47 at lag 1 for SmolLM2-135M on WikiText-2), so that an interval over windows is 1.3 to 2 times too narrow.
`harness.stats` has the interval. How many tokens a word or a byte takes is taken as given.
"""

import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from harness.results.record import Metric, Unit
from harness.stats import Clusters, clustered
from harness.tasks.segments import Nll, Segments
from harness.tasks.windows import DocumentIds

LARGEST = math.log(sys.float_info.max)
TOO_LARGE = "no value: too large for a float; the recipe destroys this model"


def mean_over(items: Sequence[Nll], documents: Sequence[DocumentIds]) -> Clusters:
    """Return the sums over documents of the tokens of items, in float64."""
    return clustered(np.concatenate(items), np.concatenate(documents))


def total(nll: Nll) -> float:
    """Return the sum in float64."""
    return float(nll.sum(dtype="float64"))


def exp(nll: float) -> float:
    """Return the exponential, infinite where it is too large for a float."""
    return math.exp(nll) if nll < LARGEST else math.inf


def figure(
    nll: Clusters, finish: Callable[[float], float], note: str | None = None, **fields: Any
) -> Metric:
    """Return the metric that `finish` makes of the mean and of the ends of its interval; `fields` are its other fields."""
    value, found = finish(nll.mean), nll.interval()
    ends = found and (finish(found.low), finish(found.high))
    how = nll.words("document")
    if math.isinf(value):
        how = TOO_LARGE
    elif ends and math.isinf(ends[1]):
        how = "no interval: its end is too large for a float"
    is_known = ends is not None and math.isfinite(ends[1])
    return Metric(
        value=None if math.isinf(value) else value,
        ci95=ends if is_known else None,
        higher_is_better=False,
        note="; ".join(filter(None, (note, how))),
        **fields,
    )


def perplexity_figure(nll: Clusters, name: str = "perplexity", note: str | None = None) -> Metric:
    """Return the perplexity a token."""
    return figure(nll, exp, note, name=name, unit=Unit.ONE, n=nll.num_items, n_of="token")


def text_figures(nll: Clusters, cut: Segments) -> list[Metric]:
    """Return the figures per token, word and byte of a text; one without words, such as a line break, has none per word."""
    words, size = cut.scored_words, cut.scored_bytes
    per_byte = nll.num_items / size
    token: dict[str, Any] = {"unit": Unit.NAT_PER_TOKEN, "n": nll.num_items, "n_of": "token"}
    word: dict[str, Any] = {"unit": Unit.ONE, "n": words, "n_of": "word"}
    byte: dict[str, Any] = {"unit": Unit.ONE, "n": size, "n_of": "byte"}
    bits: dict[str, Any] = byte | {"unit": Unit.BIT_PER_BYTE}
    by_word = (
        [
            figure(
                nll, lambda mean: exp(mean * nll.num_items / words), name="word_perplexity", **word
            )
        ]
        if words
        else []
    )
    return [
        perplexity_figure(nll),
        figure(nll, float, name="nll", **token),
        *by_word,
        figure(nll, lambda mean: exp(mean * per_byte), name="byte_perplexity", **byte),
        figure(nll, lambda mean: mean * per_byte / math.log(2), name="bits_per_byte", **bits),
    ]
