r"""How far the predictions of a model are from those of its baseline, token by token and summed up.

With p the baseline's distribution of the next token, q the candidate's, x_t the token that follows, v the vocabulary:

    kl_t      = sum_v p_v (ln p_v - ln q_v)                       KL(base || candidate)
    delta_p_t = q(x_t) - p(x_t)
    same_t    = [argmax p = argmax q]
    d_t       = nll_q - nll_p,   ln ratio = mean d,   PPL ratio = e^(mean d)

These are the statistics of `llama-perplexity --kl-divergence` (llama.cpp, tools/perplexity/perplexity.cpp), with its formulas
but for three points. KL is summed as

    kl_t = sum_v p_v (e^r_v - 1 - r_v),   r_v = ln q_v - ln p_v,

which is the same sum because p and q both sum to one. No term is negative, r = 0 gives exactly 0, and an error in a
softmax's normalization enters squared. All of it is float64 from float32 logits (`harness.engines.local.log_softmax`). llama.cpp
stores the baseline's log-probabilities in 16 bits and skips p < e^-16; here nothing is stored or skipped. Its errors take
tokens for independent, which makes them too small, by a factor of about three where the tokens of a window share a shift of
0.02 nat; here the independent unit is the document, and every interval is that of `harness.stats`. Pairing is kept: differences are taken token by token before anything is averaged.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from harness import stats
from harness.engines.local.log_softmax import log_softmax, pieces
from harness.results.record import Metric, Unit
from harness.tasks.windows import DocumentIds

Array: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]

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
"""Interpolated linearly between order statistics, as llama.cpp and numpy do."""
DELTA_P_NOTE = "a difference of probabilities, in [-1, 1]"


class TokenPairs(NamedTuple):
    """Two models on the same tokens: a number for each token that is predicted, float64 `[T]` or `[windows, T]`."""

    nll: Array
    """-ln q of the token that follows, by the candidate [nat]."""
    nll_baseline: Array
    """-ln p of it, by the baseline [nat]."""
    kl: Array
    """KL(base || candidate) over the vocabulary [nat]."""
    same_top: Array
    """1 where both have the same likeliest token, else 0; of tied tokens the first counts."""

    @property
    def delta_p(self) -> Array:
        """Probability of the token that follows, candidate minus baseline."""
        return np.exp(-self.nll) - np.exp(-self.nll_baseline)


def compare_logits(logits_NV: Tensor, baseline_NV: Tensor, targets_N: Tensor) -> TokenPairs:
    """Return the statistics of some tokens from the float32 logits of both models."""
    together = pieces(logits_NV.shape[-1], logits_NV, baseline_NV, targets_N)
    found_4N = torch.cat([_compare_piece(*piece) for piece in together], dim=1)
    return TokenPairs(*found_4N.cpu().numpy())


def _compare_piece(logits_NV: Tensor, baseline_NV: Tensor, targets_N: Tensor) -> Tensor:
    same_top_N = logits_NV.argmax(-1) == baseline_NV.argmax(-1)
    log_q_NV, log_p_NV = log_softmax(logits_NV), log_softmax(baseline_NV)
    nll_q_N, nll_p_N = (-log.gather(1, targets_N[:, None])[:, 0] for log in (log_q_NV, log_p_NV))
    return torch.stack([nll_q_N, nll_p_N, kl_divergence(log_p_NV, log_q_NV), same_top_N.double()])


def kl_divergence(log_p_NV: Tensor, log_q_NV: Tensor) -> Tensor:
    """Return KL(p || q) of each row [nat], >= 0 and exactly 0 for equal rows; see the module docstring."""
    p, r = log_p_NV.exp(), log_q_NV - log_p_NV
    near = torch.expm1(r).sub_(r).mul_(p)
    # Where q is much larger, e^r may overflow and p vanish; nothing cancels there, so the plain form serves.
    far = log_q_NV.exp().sub_(p).addcmul_(p, r, value=-1)
    # An ulp of expm1 may put a term below zero, where none can be.
    return torch.where(r < 1, near, far).clamp_min_(0).sum(-1)


def divergence_metrics(pairs: TokenPairs, documents: DocumentIds) -> tuple[Metric, ...]:
    """Return every statistic of tokens `[windows, T]`, of which `documents` has the document."""
    d, delta_p = pairs.nll - pairs.nll_baseline, pairs.delta_p
    nat, one = Unit.NAT_PER_TOKEN, Unit.ONE
    mean = partial(mean_metric, clusters=documents)
    return (
        mean("kl_mean", pairs.kl, unit=nat, better=False, finish=_positive),
        mean("same_top", pairs.same_top, unit=Unit.FRACTION, better=True, finish=_fraction),
        mean("delta_p_mean", delta_p, unit=one, better=True, note=DELTA_P_NOTE),
        mean("delta_p_rms", delta_p**2, unit=one, better=False, finish=root, note=DELTA_P_NOTE),
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
    """Return the mean over items, with an interval that takes clusters for independent, but not the items in them.

    Args:
        name: Name of the metric.
        values: One value an item, of any shape.
        clusters: The cluster of each item, in the same shape.
        unit: Unit of what is shown.
        better: Whether higher is better.
        finish: A monotone function that turns mean and bounds into what is shown.
        note: How to read the number.
        items: What a value belongs to, and what a cluster is.
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


def _positive(value: float) -> float:
    return max(value, 0.0)


def _fraction(value: float) -> float:
    return min(max(value, 0.0), 1.0)


def root(value: float) -> float:
    """Return the square root of a mean square, or of the lower bound of one, which may be negative."""
    return math.sqrt(max(value, 0.0))


def _ppl_difference(pairs: TokenPairs, documents: DocumentIds) -> Metric:
    """Return PPL(candidate) - PPL(base), with the interval of its linear part: du = PPL_q dm_q - PPL_p dm_p."""
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


def _correlation(pairs: TokenPairs) -> Metric:
    """Return the correlation of both models' NLLs, which llama.cpp calls that of ln PPL."""
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
