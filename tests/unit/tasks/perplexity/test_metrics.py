"""Means over documents of unequal length, and their intervals."""

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from harness.stats import Clusters
from harness.tasks.perplexity.metrics import mean_over, perplexity_figure

RANDOM = np.random.default_rng(7)


def documents(sums: list[float], counts: list[int]) -> Clusters:
    return Clusters(np.asarray(sums, np.float64), np.asarray(counts, np.float64))


def test_items_of_unequal_length_weigh_by_their_tokens() -> None:
    found = mean_over([np.full(1, 2.0), np.full(9, 30 / 9)], [np.zeros(1, int), np.ones(9, int)])
    assert found.mean == pytest.approx(3.2)
    assert found.interval() is None
    assert found.num_items == 10


def test_items_of_one_document_are_one_cluster() -> None:
    items = [RANDOM.random(20) for _ in range(12)]
    of = [np.full(20, index // 2) for index in range(12)]
    pairs = [np.concatenate(items[start : start + 2]) for start in range(0, 12, 2)]
    expected = scipy_stats.ttest_1samp([pair.mean() for pair in pairs], 0).confidence_interval(0.95)
    assert mean_over(items, of).interval() == pytest.approx(tuple(expected), rel=1e-9)


def test_interval_of_a_ratio_agrees_with_the_bootstrap_over_documents() -> None:
    counts = RANDOM.integers(50, 900, 200)
    sums = counts * RANDOM.normal(3, 0.3, 200) + RANDOM.normal(0, 20, 200)
    found = documents(sums.tolist(), counts.tolist())

    def ratio(y: np.ndarray, x: np.ndarray, axis: int) -> np.ndarray:
        return y.sum(axis) / x.sum(axis)

    resampled = scipy_stats.bootstrap(
        (sums, counts), ratio, paired=True, n_resamples=4000, method="percentile", rng=1
    ).confidence_interval
    # Both are estimates: of 4,000 resamples, and of a distribution of Student.
    assert found.interval() == pytest.approx(tuple(resampled), rel=0.003)


def test_sums_are_float64() -> None:
    # Added one by one in float32, 0.1 drifts by 1e-3 over a million terms.
    found = mean_over([np.full(10**6, 0.1, np.float32)], [np.zeros(10**6, int)])
    assert found.mean == pytest.approx(float(np.float32(0.1)), rel=1e-12)


def test_missing_interval_is_explained() -> None:
    metric = perplexity_figure(documents([1.0] * 4, [1] * 4), note="of something")
    assert metric.note == "of something; no interval from 4 documents; it takes 5"
    assert metric.ci95 is None
    enough = perplexity_figure(documents([1.0] * 5, [1] * 5))
    assert enough.note == "interval by document, 5 of them"
    assert enough.ci95 == (math.e, math.e)


def test_figure_too_large_for_a_float_is_null_with_a_note() -> None:
    metric = perplexity_figure(documents([5000.0] * 12, [5] * 12))
    assert (metric.value, metric.ci95) == (None, None)
    assert "too large for a float" in metric.note


def test_interval_too_large_for_a_float_is_left_out_with_a_note() -> None:
    metric = perplexity_figure(documents([700.0, 718.0] * 6, [1] * 12))
    assert metric.value == pytest.approx(math.exp(709))
    assert metric.ci95 is None
    assert "no interval: its end is too large" in metric.note
