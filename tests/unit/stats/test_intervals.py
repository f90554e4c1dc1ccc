"""Intervals against other libraries and closed forms."""

import math

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats as scipy_stats

from harness.stats import (
    Clusters,
    clustered,
    flips_interval,
    macro_interval,
    mcnemar,
    mean_interval,
    wilson,
)

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


@pytest.mark.parametrize("count", [5, 11, 141])
def test_mean_interval_equals_a_t_test(count: int) -> None:
    values = np.random.default_rng(count).normal(3, 0.2, count)
    expected = scipy_stats.ttest_1samp(values, 0).confidence_interval(0.95)
    np.testing.assert_allclose(mean_interval(values.tolist()), expected, rtol=1e-12)


@pytest.mark.parametrize("count", [0, 1, 2, 4])
def test_fewer_than_five_values_carry_no_interval(count: int) -> None:
    assert mean_interval([float(i) for i in range(count)]) is None


def unequal(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of 12 documents of 20 to 200 tokens, and the document of each, in no order."""
    rng = np.random.default_rng(seed)
    documents = rng.permutation(np.repeat(np.arange(12), rng.integers(20, 200, 12)))
    return rng.normal(3, 1, len(documents)) + rng.normal(0, 0.5, 12)[documents], documents


@pytest.mark.parametrize("seed", range(5))
def test_clustered_interval_equals_a_plain_loop_that_leaves_out_each_document(seed: int) -> None:
    values, documents = unequal(seed)
    mean = values.mean()
    left_out = [values[documents != document].mean() for document in range(12)]
    error = math.sqrt(11 / 12 * sum((each - mean) ** 2 for each in left_out))
    shares = [float((documents == document).mean()) for document in range(12)]
    freedom = 1 / sum(share**2 for share in shares) - 1
    expected = scipy_stats.t.interval(0.95, freedom, loc=mean, scale=error)
    found = clustered(values, documents)
    assert found.mean == pytest.approx(mean, rel=1e-12)
    assert found.effective == pytest.approx(freedom + 1, rel=1e-12)
    np.testing.assert_allclose(found.interval(), expected, rtol=1e-9)


def test_documents_of_equal_length_have_student_s_interval_and_statsmodels_cluster_robust_one() -> (
    None
):
    rng = np.random.default_rng(3)
    documents = np.repeat(np.arange(9), 50)
    values = rng.normal(3, 1, 450) + rng.normal(0, 0.5, 9)[documents]
    found = clustered(values, documents).interval()
    means = values.reshape(9, 50).mean(1)
    student = scipy_stats.ttest_1samp(means, 0).confidence_interval(0.95)
    fit = sm.OLS(values, np.ones(450)).fit(
        cov_type="cluster", cov_kwds={"groups": documents}, use_t=True
    )
    np.testing.assert_allclose(found, student, rtol=1e-9)
    # statsmodels counts tokens in a correction of its own, (N - 1) / (N - 1) here: none.
    np.testing.assert_allclose(found, fit.conf_int()[0], rtol=1e-9)


def test_clustered_interval_is_wider_than_that_of_independent_tokens() -> None:
    values, documents = unequal(7)
    by_document, by_token = clustered(values, documents).interval(), mean_interval(values)
    assert by_document is not None
    assert by_token is not None
    assert by_document.high - by_document.low > 2 * (by_token.high - by_token.low)


def test_documents_that_are_worth_too_few_carry_no_interval() -> None:
    # Twenty documents, of which one has nearly all tokens.
    found = Clusters(np.arange(20.0), np.asarray([1000.0] + [10.0] * 19))
    assert found.effective < 2
    assert found.interval() is None
    assert found.words("document") == (
        "no interval from 20 documents, worth 1.4 of equal size; it takes 5"
    )
    # 260^2 / (100^2 + 100^2 + 60^2)
    assert Clusters(np.ones(3), np.asarray([100.0, 100.0, 60.0])).words("document") == (
        "no interval from 3 documents, worth 2.9 of equal size; it takes 5"
    )
    assert Clusters(np.ones(1), np.ones(1)).words("document") == (
        "no interval from 1 document; it takes 5"
    )
    assert Clusters(np.ones(6), np.ones(6)).words("window") == "interval by window, 6 of them"


@pytest.mark.parametrize(("wrong", "right", "total"), [(0, 0, 20), (5, 0, 20), (14, 26, 1000)])
def test_interval_of_flips_is_the_hull_of_two_closed_forms(
    wrong: int, right: int, total: int
) -> None:
    outcomes = np.repeat([-1.0, 1.0, 0.0], [wrong + 1, right + 1, total - wrong - right])
    spread = Z * outcomes.std() / math.sqrt(len(outcomes))
    low, high = outcomes.mean() - spread, outcomes.mean() + spread
    if flips := wrong + right:
        # Clopper & Pearson: the binomial tails of the flips to right are 2.5 % at the ends.
        least = scipy_stats.beta.ppf(0.025, right, wrong + 1) if right else 0.0
        most = scipy_stats.beta.ppf(0.975, right + 1, wrong) if wrong else 1.0
        low = min(low, (2 * least - 1) * flips / total)
        high = max(high, (2 * most - 1) * flips / total)
    np.testing.assert_allclose(flips_interval(wrong, right, total), (low, high), rtol=1e-9)


@pytest.mark.parametrize("total", [1, 3, 12, 20, 60, 1000])
def test_interval_of_flips_says_what_mcnemar_s_test_says(total: int) -> None:
    apart = []
    for wrong in range(min(total, 20) + 1):
        for right in range(min(total - wrong, 20) + 1):
            low, high = flips_interval(wrong, right, total)
            if (mcnemar(wrong, right) < 0.05) == (low <= 0 <= high):
                apart.append((wrong, right))
    assert apart == []


@pytest.mark.parametrize(
    ("total", "flips"),
    [(20, (2, 0.2)), (281, (2, 0.2)), (281, (3, 0)), (60, (6, 2)), (1000, (8, 8))],
)
def test_interval_of_flips_covers_the_difference(total: int, flips: tuple[float, float]) -> None:
    # Every table of up to 40 flips each way, weighed by its chance.
    chances = [flips[0] / total, flips[1] / total, 1 - sum(flips) / total]
    tables = np.array(
        [
            (wrong, right, total - wrong - right)
            for wrong in range(min(total, 40) + 1)
            for right in range(min(total - wrong, 40) + 1)
        ]
    )
    held = 0.0
    weights = scipy_stats.multinomial.pmf(tables, total, chances)
    for (wrong, right, _), chance in zip(tables.tolist(), weights.tolist(), strict=True):
        if chance > 1e-6:
            low, high = flips_interval(wrong, right, total)
            held += chance if low <= chances[1] - chances[0] <= high else 0.0
    assert held > 0.945


def test_few_flips_one_way_do_not_exclude_no_difference() -> None:
    # Three questions, all of which flip: a fair coin does that one time in four.
    low, high = flips_interval(3, 0, 3)
    assert low == -1
    assert high > 0.3
    assert flips_interval(0, 3, 3) == (pytest.approx(-high), 1)
    # No flip among 60 still allows 1 in 20.
    assert flips_interval(0, 0, 60).high > 0.04


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
