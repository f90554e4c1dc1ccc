r"""Statistics of a model's predictions beside its baseline's, token by token.

p is the baseline's distribution of the next token, q the candidate's, x_t the token that follows, v
a token of the vocabulary, r_v = ln q_v - ln p_v. For each token t:

    kl_t      = sum_v p_v (ln p_v - ln q_v)        KL(base || candidate) [nat]
    delta_p_t = q(x_t) - p(x_t)
    same_t    = [argmax p = argmax q]
    d_t       = nll_q - nll_p                      ln(PPL_q / PPL_p) = mean d

How `kl_divergence` sums KL without cancellation:

    1. kl_t = -sum_v p_v r_v                       terms of both signs nearly cancel
    2. sum_v p_v e^r_v = sum_v q_v = 1             both distributions sum to one
    3. kl_t = sum_v p_v (e^r_v - 1 - r_v)          add step 2, which adds 0, to step 1
    4. e^r - 1 - r >= 0, and 0 only for r = 0      no term is negative; equal models give exactly 0
    5. An error e of a softmax's normalization shifts all r by e: it changes step 1 by e, and
       step 3 by e^2 / 2.

The statistics are those of `llama-perplexity --kl-divergence` (llama.cpp,
tools/perplexity/perplexity.cpp), which differs in three points:

- It stores the baseline's log-probabilities in 16 bits and skips p < e^-16. Here all is float64
  from float32 logits (`harness.engines.local.log_softmax`), and nothing is stored or skipped.
- It sums KL as in step 1.
- Its errors take tokens for independent. Where the tokens of a window share a shift of 0.02 nat,
  such errors are too small by a factor of about three. Here documents are independent, and
  intervals are those of `harness.stats`. Differences are taken token by token before anything is
  averaged.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, Self, TypeAlias

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
"""Name -> percent. Interpolated linearly between order statistics, as llama.cpp and numpy do."""
DELTA_P_NOTE = "a difference of probabilities, in [-1, 1]"


class TokenPairs(NamedTuple):
    """Two models on the same tokens: one number for each predicted token, float64.

    Each field has the shape `[T]`, or `[windows, T]` for many windows.
    """

    nll: Array
    """-ln q(x_t), of the candidate [nat]."""
    nll_baseline: Array
    """-ln p(x_t), of the baseline [nat]."""
    kl: Array
    """KL(base || candidate) over the vocabulary [nat]."""
    same_top: Array
    """1 where both have the same most likely token, else 0; the first of tied tokens counts."""

    @classmethod
    def stack(cls, windows: Sequence["TokenPairs"]) -> Self:
        """Return the statistics `[windows, T]` of windows of `[T]` each."""
        return cls(*(np.stack(parts) for parts in zip(*windows, strict=True)))

    @property
    def delta_p(self) -> Array:
        """q(x_t) - p(x_t)."""
        return np.exp(-self.nll) - np.exp(-self.nll_baseline)


def compare_logits(logits_NV: Tensor, baseline_NV: Tensor, targets_N: Tensor) -> TokenPairs:
    """Return the statistics `[N]` of tokens, from float32 logits of candidate and baseline."""
    together = pieces(logits_NV.shape[-1], logits_NV, baseline_NV, targets_N)
    found_4N = torch.cat([_compare_piece(*piece) for piece in together], dim=1)
    return TokenPairs(*found_4N.cpu().numpy())


def _compare_piece(logits_NV: Tensor, baseline_NV: Tensor, targets_N: Tensor) -> Tensor:
    same_top_N = logits_NV.argmax(-1) == baseline_NV.argmax(-1)
    log_q_NV, log_p_NV = log_softmax(logits_NV), log_softmax(baseline_NV)
    nll_q_N, nll_p_N = (-log.gather(1, targets_N[:, None])[:, 0] for log in (log_q_NV, log_p_NV))
    return torch.stack([nll_q_N, nll_p_N, kl_divergence(log_p_NV, log_q_NV), same_top_N.double()])


def kl_divergence(log_p_NV: Tensor, log_q_NV: Tensor) -> Tensor:
    """Return KL(p || q) of each row [nat]: >= 0, and exactly 0 for equal rows."""
    p, r = log_p_NV.exp(), log_q_NV - log_p_NV
    # Step 3 of the module docstring.
    near = torch.expm1(r).sub_(r).mul_(p)
    # Where q is much larger than p, e^r overflows and p vanishes: write p e^r as q.
    far = log_q_NV.exp().sub_(p).addcmul_(p, r, value=-1)
    # Step 4, which an ulp of expm1 may break.
    return torch.where(r < 1, near, far).clamp_min_(0).sum(-1)


def divergence_metrics(pairs: TokenPairs, documents: DocumentIds) -> tuple[Metric, ...]:
    """Return every statistic of tokens `[windows, T]`; `documents` has the document of each."""
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
    """Return a mean and its cluster-robust interval: clusters are independent, their items not.

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
    """Clamp a mean of values >= 0, or its bound: an interval of a small mean may reach below 0."""
    return max(value, 0.0)


def fraction(value: float) -> float:
    """Clamp a mean of values in [0, 1], or its bound: an interval may reach beyond."""
    return min(max(value, 0.0), 1.0)


def _ppl_difference(pairs: TokenPairs, documents: DocumentIds) -> Metric:
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


def _correlation(pairs: TokenPairs) -> Metric:
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
