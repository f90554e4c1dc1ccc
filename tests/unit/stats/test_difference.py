"""Paired differences: tests, equivalence and plans, beside statsmodels and hand-made arithmetic."""

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.weightstats import ttost_paired

from harness.stats import Clusters, Estimate, clustered, summed
from harness.stats.difference import Difference, of_answers, of_flips, of_tokens

RANDOM = np.random.default_rng(7)
DIFFERENCES = RANDOM.normal(0.01, 0.05, 40)
BY_ITEM = of_tokens(clustered(DIFFERENCES, np.arange(40)))
"""Documents of one token each: the interval is Student's t."""


def test_independent_items_give_student_s_t_test() -> None:
    expected = scipy_stats.ttest_1samp(DIFFERENCES, 0)
    assert BY_ITEM.p == pytest.approx(expected.pvalue, rel=1e-12)
    assert BY_ITEM.interval == pytest.approx(expected.confidence_interval(0.95), rel=1e-12)


@pytest.mark.parametrize("margin", [0.005, 0.02, 0.03, 0.1])
def test_equivalence_is_tost_of_statsmodels(margin: float) -> None:
    expected, *_ = ttost_paired(DIFFERENCES, np.zeros(40), -margin, margin)
    assert BY_ITEM.p_within(margin) == pytest.approx(expected, rel=1e-9)


def test_equivalence_holds_where_the_90_percent_interval_lies_within_the_margin() -> None:
    (estimate,) = BY_ITEM.estimates
    low, high = estimate.interval(0.9)
    edge = max(-low, high)
    assert BY_ITEM.p_within(edge) == pytest.approx(0.05, rel=1e-9)


@pytest.mark.parametrize(("to_wrong", "to_right"), [(12, 9), (26, 2), (3, 3), (5, 0)])
def test_flips_have_mcnemar_s_p(to_wrong: int, to_right: int) -> None:
    found = of_flips(to_wrong, to_right, 1000)
    expected = mcnemar([[0, to_wrong], [to_right, 0]], exact=True).pvalue
    assert found.p == pytest.approx(expected, rel=1e-12)
    assert found.value == (to_right - to_wrong) / 1000


def test_no_flip_at_all_is_no_difference_and_says_how_large_one_may_be() -> None:
    found = of_flips(0, 0, 100)
    assert (found.value, found.p) == (0.0, 1.0)
    assert found.interval is not None
    assert found.interval.low < 0 < found.interval.high
    within = found.p_within(0.1)
    assert within is not None
    assert within < 0.05


def test_subjects_that_move_together_take_a_claim_away() -> None:
    subjects = np.repeat(np.arange(8), 25)
    values = np.zeros(200)
    values[subjects == 0] = -1.0
    alone, clustered_ = of_flips(25, 0, 200), of_answers(values, clustered(values, subjects))
    assert alone.p is not None
    assert clustered_.p is not None
    assert alone.p < 1e-6
    assert clustered_.p > 0.3, "one of eight subjects is no evidence about the others"
    assert clustered_.interval is not None
    assert clustered_.interval.high > 0


def test_few_subjects_leave_the_test_over_questions() -> None:
    values = np.array([-1.0] * 9 + [0.0] * 41)
    found = of_answers(values, clustered(values, ["law"] * 50))
    assert found == of_flips(9, 0, 50)


@pytest.mark.parametrize("value", [0.0, 0.2])
def test_differences_that_do_not_vary_need_no_error(value: float) -> None:
    found = of_tokens(clustered(np.full(10, value), np.arange(10)))
    assert found.p == (1.0 if value == 0 else 0.0)
    assert found.p_within(0.1) == (0.0 if value == 0 else 1.0)
    assert found.items_to_see(0.1) is None


def test_too_few_documents_give_no_test() -> None:
    found = of_tokens(clustered(DIFFERENCES, np.arange(40) % 3))
    assert (found.p, found.interval, found.p_within(0.1), found.items_to_see(0.1)) == (None,) * 4
    assert found.test.startswith("no interval from 3 documents")


def test_questions_needed_for_half_a_point_are_those_of_the_formula() -> None:
    # 1,000 questions of which 5 % flip; (1.960 + 0.842)^2 0.05 / 0.005^2 = 15,698.
    error = math.sqrt(0.05 / 1000)
    found = Difference(value=0.0, estimates=(Estimate(0.0, error),), num_items=1000, test="")
    assert found.items_to_see(0.005) == pytest.approx(15_698, abs=2)
    assert found.smallest_visible() == pytest.approx(0.0198, abs=1e-4)


def test_a_visible_difference_is_found_with_the_promised_power() -> None:
    error, freedom = 1.0, 12.0
    found = Difference(value=0, estimates=(Estimate(0, error, freedom),), num_items=1, test="")
    visible = found.smallest_visible()
    assert visible is not None
    reach = scipy_stats.t.ppf(0.975, freedom)
    power = scipy_stats.nct.sf(reach, freedom, visible / error)
    assert power == pytest.approx(0.8, abs=0.01)


def test_equivalence_by_hand() -> None:
    # Differences 0, 1, 2, 3, 4: mean 2, variance 10 / 4 = 2.5, error sqrt(2.5 / 5) = 0.70711.
    # At the margin 4: t = (2 + 4) / 0.70711 = 8.4853 and (4 - 2) / 0.70711 = 2.8284, 4 degrees of
    # freedom. The nearer bound decides. For 4 degrees of freedom, with s = t / sqrt(t^2 + 4),
    # P(T > t) = 1/2 - 3/4 s (1 - s^2 / 3) = 1/2 - 3/4 * 0.81650 * 0.77778 = 0.02371.
    found = of_tokens(Clusters(np.arange(5.0), np.ones(5)))
    assert found.p_within(4.0) == pytest.approx(0.02371, abs=5e-6)
    assert found.p_within(2.0) == pytest.approx(0.5)


def test_swapped_runs_differ_by_the_opposite_with_the_same_p() -> None:
    one, other = of_flips(30, 12, 1000), of_flips(12, 30, 1000)
    assert one.value == -other.value
    assert one.p == other.p
    assert one.interval is not None
    assert other.interval is not None
    assert one.interval == pytest.approx((-other.interval.high, -other.interval.low))
    assert one.p_within(0.03) == pytest.approx(other.p_within(0.03))


@pytest.mark.parametrize("seed", range(20))
def test_no_difference_is_both_within_a_margin_and_beyond_it(seed: int) -> None:
    random = np.random.default_rng(seed)
    found = of_tokens(Clusters(random.normal(random.normal(0, 0.5), 1.0, 30), np.ones(30)))
    within, above = found.p_within(0.3), found.p_above(0.3)
    assert within is not None
    assert above is not None
    assert within >= 0.5 or above >= 0.5


def test_a_size_that_no_number_of_items_shows_has_none() -> None:
    found = of_flips(10, 4, 1000)
    visible = found.smallest_visible()
    assert visible is not None
    assert found.items_to_see(visible) == pytest.approx(1000, abs=1)
    for size in (1e-9, 1e-200, 5e-324):
        assert found.items_to_see(size) is None


@pytest.mark.parametrize("sign", [-1, 1])
def test_difference_of_accuracies_is_at_most_one(sign: int) -> None:
    answers = np.full(60, float(sign))
    found = of_answers(answers, summed(answers, np.repeat(np.arange(20), 3)))
    low, high = found.interval or (math.nan, math.nan)
    assert found.value == sign
    assert -1 <= low <= sign <= high <= 1
