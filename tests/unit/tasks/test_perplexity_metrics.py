"""Means over items of unequal length, and their intervals."""

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from harness.tasks.perplexity_metrics import (
    mean_nll,
    mean_over,
    perplexity_figure,
    running_perplexity,
)

RANDOM = np.random.default_rng(7)


def test_items_of_one_length_have_the_interval_of_their_means() -> None:
    means = RANDOM.normal(3, 0.2, 20)
    found = mean_nll((means * 50).tolist(), [50] * 20, "window")
    expected = scipy_stats.ttest_1samp(means, 0).confidence_interval(0.95)
    assert found.value == pytest.approx(means.mean())
    assert found.interval == pytest.approx(tuple(expected))


def test_items_of_unequal_length_weigh_by_their_tokens() -> None:
    found = mean_nll([2.0, 30.0], [1, 9], "document")
    assert found.value == pytest.approx(3.2)
    assert found.interval is None
    assert found.num_tokens == 10


def test_interval_of_a_ratio_agrees_with_the_bootstrap() -> None:
    counts = RANDOM.integers(50, 900, 200)
    sums = counts * RANDOM.normal(3, 0.3, 200) + RANDOM.normal(0, 20, 200)
    found = mean_nll(sums.tolist(), counts.tolist(), "document")

    def ratio(y: np.ndarray, x: np.ndarray, axis: int) -> np.ndarray:
        return y.sum(axis) / x.sum(axis)

    resampled = scipy_stats.bootstrap(
        (sums, counts), ratio, paired=True, n_resamples=4000, method="percentile", rng=1
    ).confidence_interval
    # Both are estimates: of 4,000 resamples, and of a normal distribution.
    assert found.interval == pytest.approx(tuple(resampled), rel=0.003)
    assert found.interval.low < found.value < found.interval.high


def test_document_of_no_tokens_changes_no_mean() -> None:
    with_it = mean_nll([2.0, 0.0, 30.0], [1, 0, 9], "document")
    assert with_it.value == pytest.approx(3.2)


def test_sums_are_float64() -> None:
    # Added one by one in float32, 0.1 drifts by 1e-3 over a million terms.
    found = mean_over([np.full(10**6, 0.1, np.float32)], "window")
    assert found.value == pytest.approx(float(np.float32(0.1)), rel=1e-12)


def test_missing_interval_is_explained() -> None:
    metric = perplexity_figure(mean_nll([1.0] * 9, [1] * 9, "document"), note="of something")
    assert metric.note == "of something; no interval from fewer than 10 documents"
    assert metric.ci95 is None
    assert perplexity_figure(mean_nll([1.0] * 10, [1] * 10, "document")).note is None


def test_running_perplexity_has_half_the_width() -> None:
    sums = RANDOM.normal(3, 0.2, 20).tolist()
    metric = perplexity_figure(mean_nll(sums, [1] * 20, "window"))
    shown = running_perplexity(sums, [1] * 20)
    assert shown == f"perplexity {metric.value:.2f} ± {(metric.ci95[1] - metric.ci95[0]) / 2:.2g}"
    assert running_perplexity([math.log(2)], [1]) == "perplexity 2.00"


def test_figure_too_large_for_a_float_is_null_with_a_note() -> None:
    metric = perplexity_figure(mean_nll([5000.0] * 12, [5] * 12, "window"))
    assert (metric.value, metric.ci95) == (None, None)
    assert "too large for a float" in metric.note
    assert running_perplexity([5000.0] * 9, [5] * 9) == "perplexity inf"


def test_interval_too_large_for_a_float_is_left_out_with_a_note() -> None:
    metric = perplexity_figure(mean_nll([700.0, 718.0] * 6, [1] * 12, "window"))
    assert metric.value == pytest.approx(math.exp(709))
    assert metric.ci95 is None
    assert "no interval: its end is too large" in metric.note
