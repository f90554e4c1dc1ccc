"""Statistics of times against closed forms and simulation."""

import numpy as np
import pytest

from harness.timing import distribution
from harness.timing.distribution import (
    LEAST_ROUNDS,
    drift,
    least_samples,
    percentile,
    rate_statistics,
    ratio,
    time_statistics,
)


def test_statistics_are_median_quartiles_and_coefficient_of_variation() -> None:
    found = time_statistics([1.0, 2.0, 3.0, 4.0, 5.0])
    assert (found.median, found.iqr) == (3.0, 2.0)
    assert found.cv == pytest.approx(np.sqrt(2.5) / 3)  # variance of 1..5 with n - 1 is 2.5


def test_rate_is_count_over_time_and_never_a_mean_of_rates() -> None:
    seconds = [1.0, 1.0, 4.0, 4.0]
    found = rate_statistics(100, seconds)
    assert found.median == pytest.approx(100 / 2.5)  # the median of the rates would be 62.5
    assert found.median * np.median(seconds) == pytest.approx(100)
    assert found.iqr == pytest.approx(75.0)


def test_ratio_says_how_much_faster_the_candidate_is() -> None:
    found = ratio([2.0] * 10, [0.5] * 10, seed=0)
    assert found.value == 4.0
    assert found.interval == (4.0, 4.0)


def test_few_rounds_have_no_interval() -> None:
    times = [1.0] * (LEAST_ROUNDS - 1)
    assert ratio(times, times, seed=0).interval is None


def test_ratio_of_a_seed_is_the_same_twice() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.uniform(1, 2, 10), rng.uniform(1, 2, 10)
    assert ratio(a, b, seed=1) == ratio(a, b, seed=1)
    assert ratio(a, b, seed=1).interval != ratio(a, b, seed=2).interval


def test_interval_covers_the_truth_about_as_often_as_it_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(distribution, "RESAMPLES", 999)  # enough for a percentile of 2.5
    rng = np.random.default_rng(0)
    truth, covered, sessions = 1.5, 0, 150
    for session in range(sessions):
        base = 1.5 * rng.lognormal(0, 0.05, 12)
        candidate = rng.lognormal(0, 0.05, 12)
        low, high = ratio(base, candidate, seed=session).interval
        covered += low <= truth <= high
    # 95 % of 150 within two binomial standard errors is 137 .. 148; a bootstrap of few rounds may
    # be a little wide or narrow.
    assert 0.88 * sessions <= covered <= sessions


def test_what_disturbs_both_of_a_round_does_not_widen_the_interval() -> None:
    rng = np.random.default_rng(0)
    shared = rng.lognormal(0, 0.3, 15)
    base, candidate = 1.5 * shared, shared * rng.lognormal(0, 0.005, 15)
    low, high = ratio(base, candidate, seed=0).interval
    assert low <= 1.5 <= high
    assert high - low < 0.05
    low, high = ratio(base, rng.permutation(candidate), seed=0).interval
    assert high - low > 0.2


@pytest.mark.parametrize(("percent", "samples"), [(50, 20), (90, 100), (99, 1000), (10, 100)])
def test_a_percentile_needs_ten_samples_beyond_it(percent: int, samples: int) -> None:
    assert least_samples(percent) == samples
    values = list(range(samples))
    assert percentile(values[1:], percent) is None
    assert percentile(values, percent) == pytest.approx(np.percentile(values, percent))
    beyond = sum(value > percentile(values, percent) for value in values)
    assert min(beyond, samples - beyond) >= 10


def test_drift_is_the_last_third_over_the_first() -> None:
    assert drift([1.0, 1.0, 1.0, 5.0, 5.0, 5.0, 1.1, 1.1, 1.1]) == pytest.approx(0.1)
    assert drift([2.0, 1.0]) == pytest.approx(-0.5)


def test_one_late_round_is_no_drift_and_a_slope_is() -> None:
    assert drift([1.0] * 9 + [3.0]) == 0.0
    assert drift([1 + 0.01 * i for i in range(10)]) == pytest.approx(0.07 / 1.01)
