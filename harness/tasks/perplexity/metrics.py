"""Turn the NLLs of tokens into figures per token, word and byte, with intervals.

    nll = sum of y_g / sum of x_g       over documents g with x_g tokens and the NLL y_g [nat]
    PPL = exp(nll)

Documents are the independent units of an interval (`harness.stats`). Tokens are not independent,
and neither are windows: the loss of neighbouring windows correlates (0.47 at lag 1 for SmolLM2-135M
on WikiText-2), and an interval over windows is 1.3 to 2 times too narrow. The numbers of tokens per
word and per byte are taken as exact.
"""

import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from harness.engines.requests import Array
from harness.results.record import Metric, Unit
from harness.stats import Clusters, clustered
from harness.tasks.segments import Segments
from harness.tasks.windows import DocumentIds

LARGEST_NLL = math.log(sys.float_info.max)
"""Largest NLL whose exponential is a finite float."""
TOO_LARGE = "no value: too large for a float; the recipe destroys this model"


def mean_over(samples: Sequence[Array], documents: Sequence[DocumentIds]) -> Clusters:
    """Return the sums of NLLs and tokens over documents, given the tokens of each sample."""
    return clustered(np.concatenate(samples), np.concatenate(documents))


def total(nll: Array) -> float:
    """Return the sum of NLLs in float64 [nat]."""
    return float(nll.sum(dtype="float64"))


def exp(nll: float) -> float:
    """Return e^nll, or infinity if it is too large for a float."""
    return math.exp(nll) if nll < LARGEST_NLL else math.inf


def figure(
    nll: Clusters, finish: Callable[[float], float], note: str | None = None, **fields: Any
) -> Metric:
    """Return a metric that is a function of the mean NLL per token.

    Args:
        nll: NLLs and tokens by document.
        finish: Increasing function from the mean NLL to the figure, such as `exp`. It is applied
            to both ends of the interval too.
        note: How to read the figure.
        fields: Name, unit, n and n_of of the metric.
    """
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
    """Return the perplexity per token."""
    return figure(nll, exp, note, name=name, unit=Unit.ONE, n=nll.num_items, n_of="token")


def text_figures(nll: Clusters, cut: Segments) -> list[Metric]:
    """Return the figures per token, word and byte of a text.

    A text without words, such as a line break, has no figure per word.
    """
    words, size = cut.scored_words, cut.scored_bytes
    per_byte = nll.num_items / size
    token: dict[str, Any] = {"unit": Unit.NAT_PER_TOKEN, "n": nll.num_items, "n_of": "token"}
    word: dict[str, Any] = {"unit": Unit.ONE, "n": words, "n_of": "word"}
    byte: dict[str, Any] = {"unit": Unit.ONE, "n": size, "n_of": "byte"}
    bits: dict[str, Any] = byte | {"unit": Unit.BIT_PER_BYTE}
    figures = [perplexity_figure(nll), figure(nll, float, name="nll", **token)]
    if words:
        figures.append(
            figure(
                nll, lambda mean: exp(mean * nll.num_items / words), name="word_perplexity", **word
            )
        )
    return [
        *figures,
        figure(nll, lambda mean: exp(mean * per_byte), name="byte_perplexity", **byte),
        figure(nll, lambda mean: mean * per_byte / math.log(2), name="bits_per_byte", **bits),
    ]
