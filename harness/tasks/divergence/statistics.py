r"""Statistics of a model's predictions beside its baseline's, token by token.

p is the baseline's distribution of the next token, q the candidate's, x_t the token that follows, v
a token of the vocabulary. An engine gives four numbers for each token t
(`harness.engines.requests.Compared`):

    kl_t      = sum_v p_v (ln p_v - ln q_v)        KL(base || candidate) [nat]
    delta_p_t = q(x_t) - p(x_t)
    same_t    = [argmax p = argmax q]
    d_t       = nll_q - nll_p                      ln(PPL_q / PPL_p) = mean d

The statistics are those of `llama-perplexity --kl-divergence` (llama.cpp,
tools/perplexity/perplexity.cpp), which differs in three points:

- It stores the baseline's log-probabilities in 16 bits and skips p < e^-16. Here all is float64
  from float32 logits, and nothing is stored or skipped.
- It sums the terms of KL as they stand, which nearly cancel. Engines sum terms that are >= 0
  (`harness.engines.local.kl_divergence`).
- Its standard errors assume that tokens are independent. If all tokens of a window are shifted by
  the same 0.02 nat, these errors are too small by a factor of about three. Here documents are
  independent, and intervals are those of `harness.stats`. Differences are taken token by token
  before anything is averaged.
"""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import ArrayLike

from harness import stats
from harness.engines.requests import Array, Compared
from harness.results.record import Metric, Unit
from harness.tasks.windows import DocumentIds

PERCENTILES = {
    "p99.9": 99.9,
    "p99": 99.0,
    "p95": 95.0,
    "p90": 90.0,
    "median": 50.0,
    "p10": 10.0,
    "p5": 5.0,
    "p1": 1.0,
    "p0.1": 0.1,
    "min": 0.0,
    "max": 100.0,
}
"""Name -> percent. Interpolated linearly between order statistics, as llama.cpp and numpy do."""
DELTA_P_NOTE = "a difference of probabilities, in [-1, 1]"


def divergence_metrics(pairs: Compared, documents: DocumentIds) -> tuple[Metric, ...]:
    """Return every statistic.

    Args:
        pairs: Statistics of tokens `[windows, T]`.
        documents: The document of each token `[windows, T]`.
    """
    d, delta_p = pairs.nll - pairs.nll_baseline, pairs.delta_p
    nat, one = Unit.NAT_PER_TOKEN, Unit.ONE
    mean = partial(mean_metric, clusters=documents)
    return (
        mean("kl_mean", pairs.kl, unit=nat, better=False, finish=nonnegative),
        mean("same_top", pairs.same_top, unit=Unit.FRACTION, better=True, finish=fraction),
        mean("delta_p_mean", delta_p, unit=one, better=True, note=DELTA_P_NOTE),
        mean(
            "delta_p_rms", delta_p**2, unit=one, better=False, finish=stats.root, note=DELTA_P_NOTE
        ),
        mean("ln_ppl_ratio", d, unit=nat, better=False),
        mean("ppl_ratio", d, unit=one, better=False, finish=math.exp),
        _ppl_difference(pairs, documents),
        mean("ppl", pairs.nll, unit=one, better=False, finish=math.exp),
        mean("ppl_baseline", pairs.nll_baseline, unit=one, better=False, finish=math.exp),
        _correlation(pairs),
        *_percentiles("kl", pairs.kl, nat, better=False),
        *_percentiles("delta_p", delta_p, one, better=None),
    )


def mean_metric(
    name: str,
    values: Array,
    *,
    clusters: ArrayLike,
    unit: Unit,
    better: bool,
    finish: Callable[[float], float] = float,
    note: str | None = None,
    items: tuple[str, str] = ("token", "document"),
) -> Metric:
    """Return a mean and its cluster-robust interval; only clusters are independent, not items.

    Args:
        name: Name of the metric.
        values: The value of each item, of any shape.
        clusters: The cluster of each item, in the same shape.
        unit: Unit of the metric.
        better: Whether higher is better.
        finish: A monotone function that turns the mean and its bounds into the metric.
        note: How to read the number.
        items: The words for an item and for a cluster.
    """
    sums = stats.clustered(values, clusters)
    interval = sums.interval()
    return Metric(
        name=name,
        value=finish(sums.mean),
        unit=unit,
        n=values.size,
        n_of=items[0],
        ci95=interval and (finish(interval.low), finish(interval.high)),
        higher_is_better=better,
        note="; ".join(filter(None, (note, sums.words(items[1])))),
    )


def nonnegative(value: float) -> float:
    """Clamp a mean of values >= 0, or a bound of its interval, which may lie below 0."""
    return max(value, 0.0)


def fraction(value: float) -> float:
    """Clamp a mean of values in [0, 1], or a bound of its interval, which may lie outside."""
    return min(max(value, 0.0), 1.0)


def _ppl_difference(pairs: Compared, documents: DocumentIds) -> Metric:
    """Return PPL_q - PPL_p, with the interval of its linear part.

    1. PPL = e^m with m the mean NLL, so a small change of the means moves the difference by
       du = PPL_q dm_q - PPL_p dm_p (the delta method).
    2. du is the mean of PPL_q nll_q - PPL_p nll_p over tokens, up to a constant.
    3. The constant `shift` moves this mean and its bounds to the difference itself.
    """
    ppl_q, ppl_p = (math.exp(nll.mean()) for nll in (pairs.nll, pairs.nll_baseline))
    linear = ppl_q * pairs.nll - ppl_p * pairs.nll_baseline
    shift = ppl_q - ppl_p - float(linear.mean())
    return mean_metric(
        "ppl_difference",
        linear,
        clusters=documents,
        unit=Unit.ONE,
        better=False,
        finish=lambda value: value + shift,
    )


def _correlation(pairs: Compared) -> Metric:
    """Return the correlation of both models' NLLs; llama.cpp calls it the correlation of ln PPL."""
    nll_q, nll_p = pairs.nll.ravel(), pairs.nll_baseline.ravel()
    value, note = None, "undefined: one of the models gives every token the same probability"
    if np.ptp(nll_q) and np.ptp(nll_p):
        value = float(np.corrcoef(nll_q, nll_p)[0, 1])
        note = "of the tokens' NLLs; no interval: tokens are not independent"
    return Metric(
        name="ppl_correlation",
        value=value,
        unit=Unit.ONE,
        n=nll_q.size,
        n_of="token",
        higher_is_better=None,
        note=note,
    )


def _percentiles(prefix: str, values: Array, unit: Unit, *, better: bool | None) -> list[Metric]:
    found = np.percentile(values, list(PERCENTILES.values()))
    return [
        Metric(
            name=f"{prefix}_{name}",
            value=float(value),
            unit=unit,
            n=values.size,
            n_of="token",
            higher_is_better=better,
            note="no interval: a percentile of tokens, which are not independent",
        )
        for name, value in zip(PERCENTILES, found, strict=True)
    ]
