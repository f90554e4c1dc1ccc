"""Intervals against other libraries and closed forms."""

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from harness.stats import macro_interval, mcnemar, mean_interval, wilson

Z = 1.959963984540054
"""The normal quantile of 0.975."""


@pytest.mark.parametrize(
    ("hits", "total"), [(0, 1), (1, 1), (0, 50), (37, 50), (562, 1000), (7, 14042)]
)
def test_wilson_equals_its_closed_form(hits: int, total: int) -> None:
    share = hits / total
    center = (share + Z**2 / (2 * total)) / (1 + Z**2 / total)
    spread = math.sqrt(share * (1 - share) / total + Z**2 / (4 * total**2))
    spread *= Z / (1 + Z**2 / total)
    found = wilson(hits, total)
    assert found.low == pytest.approx(center - spread, abs=1e-12)
    assert found.high == pytest.approx(center + spread, abs=1e-12)


@pytest.mark.parametrize(("hits", "total"), [(0, 20), (13, 20), (20, 20), (600, 1000)])
def test_wilson_equals_statsmodels(hits: int, total: int) -> None:
    proportion = pytest.importorskip("statsmodels.stats.proportion")
    expected = proportion.proportion_confint(hits, total, alpha=0.05, method="wilson")
    np.testing.assert_allclose(wilson(hits, total), expected, atol=1e-12)


@pytest.mark.parametrize("count", [10, 11, 141])
def test_mean_interval_equals_a_t_test(count: int) -> None:
    values = np.random.default_rng(count).normal(3, 0.2, count)
    expected = scipy_stats.ttest_1samp(values, 0).confidence_interval(0.95)
    np.testing.assert_allclose(mean_interval(values.tolist()), expected, rtol=1e-12)


@pytest.mark.parametrize("count", [0, 1, 2, 9])
def test_fewer_than_ten_values_carry_no_interval(count: int) -> None:
    assert mean_interval([float(i) for i in range(count)]) is None


def test_equal_values_have_an_interval_of_no_width() -> None:
    assert mean_interval([2.5] * 12) == (2.5, 2.5)


def test_macro_interval_by_hand() -> None:
    # Group one: mean 1/2, variance 1/3, squared error 1/12. Group two: mean 1, no variance.
    found = macro_interval([[0, 1, 0, 1], [1, 1, 1]])
    spread = Z * math.sqrt(1 / 12) / 2
    assert found is not None
    assert found.low == pytest.approx(0.75 - spread, abs=1e-12)
    assert found.high == pytest.approx(0.75 + spread, abs=1e-12)


def test_macro_interval_weighs_groups_alike() -> None:
    found = macro_interval([[0, 1] * 500, [1, 1]])
    assert found is not None
    assert (found.low + found.high) / 2 == pytest.approx(0.75)


def test_single_item_in_a_group_carries_no_interval() -> None:
    assert macro_interval([[0, 1, 1], [1]]) is None


@pytest.mark.parametrize(("one", "other"), [(0, 0), (5, 0), (12, 30), (30, 12), (7, 7)])
def test_mcnemar_is_a_fair_coin_s_two_tails(one: int, other: int) -> None:
    n, fewer = one + other, min(one, other)
    tail = sum(math.comb(n, k) for k in range(fewer + 1)) / 2**n
    assert mcnemar(one, other) == pytest.approx(min(1.0, 2 * tail))


def test_mcnemar_equals_statsmodels() -> None:
    tables = pytest.importorskip("statsmodels.stats.contingency_tables")
    expected = tables.mcnemar([[50, 12], [30, 8]], exact=True).pvalue
    assert mcnemar(12, 30) == pytest.approx(expected)
