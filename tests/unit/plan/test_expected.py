"""What a plan expects, against the published table, statsmodels, and the tests that decide claims."""

import math

import numpy as np
import pytest
from scipy import optimize, stats
from statsmodels.stats.power import NormalIndPower, TTestPower

from harness.plan import assumed_flips, observed
from harness.stats import Clusters
from harness.stats.difference import of_answers, of_flips, of_tokens

# arXiv 2605.28873: the minimal detectable effect of paired accuracies [pp]
MMLU = {0.01: 0.24, 0.03: 0.41, 0.05: 0.53, 0.1: 0.75, 0.2: 1.06}
OF_12 = {0.01: 0.31, 0.03: 0.54, 0.05: 0.70, 0.1: 0.99, 0.2: 1.40}  # at 5 % / 12
OF_500 = {0.03: 2.2, 0.05: 2.8, 0.1: 4.0, 0.2: 5.6}


@pytest.mark.parametrize(("rate", "points"), MMLU.items())
def test_all_of_mmlu_shows_the_published_differences(rate: float, points: float) -> None:
    found = assumed_flips(rate).visible(14_042)
    assert found is not None
    assert round(100 * found, 2) == points
    of_12 = assumed_flips(rate).visible(14_042, alpha=0.05 / 12)
    assert of_12 is not None
    assert round(100 * of_12, 2) == OF_12[rate]


@pytest.mark.parametrize(("rate", "points"), OF_500.items())
def test_500_questions_show_the_published_differences(rate: float, points: float) -> None:
    found = assumed_flips(rate).visible(500)
    assert found is not None
    assert round(100 * found, 1) == points


def test_a_difference_takes_as_many_flips() -> None:
    # The table has 1.3 pp for 500 questions of which 1 % flips: more than can flip.
    formula = assumed_flips(0.01).difference.smallest_visible()
    assert formula is not None
    assert round(100 * formula / math.sqrt(500), 1) == 1.3
    found = assumed_flips(0.01).visible(500)
    assert found is not None
    assert found == pytest.approx(assumed_flips(found).visible(500))
    assert assumed_flips(0.01).needed(found) == pytest.approx(500, abs=1)
    assert assumed_flips(0.05).visible(5) is None  # five flips never reach p < 0.05


@pytest.mark.parametrize(("size", "num"), [(0.005, 15_698), (0.01, 3_925)])
def test_the_number_of_questions_is_that_of_statsmodels(size: float, num: int) -> None:
    solved = NormalIndPower().solve_power(
        effect_size=size / math.sqrt(0.05), alpha=0.05, power=0.8, ratio=0
    )
    assert assumed_flips(0.05).needed(size) == math.ceil(solved) == num


def test_subjects_cost_degrees_of_freedom() -> None:
    found = assumed_flips(0.05, num_subjects=57).visible(1000)
    assert found is not None
    effect = found / math.sqrt(0.05 / 1000) / math.sqrt(57)
    assert TTestPower().power(effect, 57, 0.05) == pytest.approx(0.8, abs=0.003)
    assert assumed_flips(0.05, num_subjects=3) == assumed_flips(0.05)


@pytest.mark.parametrize("rate", [0.03, 0.05, 0.1])
@pytest.mark.parametrize("num", [500, 1000, 14_042])
def test_the_exact_test_has_the_power_of_the_plan(rate: float, num: int) -> None:
    """The power of McNemar's exact test by summing over all numbers of flips is 0.8 within 0.05."""
    size = assumed_flips(rate, num_subjects=57).visible(num)
    assert size is not None
    low, high = stats.binom.ppf([1e-9, 1 - 1e-9], num, rate)
    flips = np.arange(int(low), int(high) + 1)
    # The largest count whose two-sided p-value is below 0.05, or -1.
    most = stats.binom.ppf(0.025, flips, 0.5)
    most = np.where(stats.binom.cdf(most, flips, 0.5) > 0.025, most - 1, most)
    share = 0.5 + size / (2 * rate)
    power = stats.binom.sf(flips - most - 1, flips, share) + stats.binom.cdf(most, flips, share)
    found = (stats.binom.pmf(flips, num, rate) * power).sum()
    assert found == pytest.approx(0.8, abs=0.05)


def test_a_plan_from_two_runs_says_what_their_claim_says() -> None:
    difference = of_flips(30, 20, 1000)
    found = observed(difference)
    assert found is not None
    assert found.flip_rate == pytest.approx(0.05, rel=0.05)
    assert found.visible(1000) == difference.smallest_visible()
    assert found.needed(0.005) == difference.items_to_see(0.005)
    seen = optimize.brentq(lambda num: (found.visible(int(num)) or 1) - 0.005, 1e3, 1e5)
    assert found.needed(0.005) == pytest.approx(seen, abs=2)


def test_answers_without_a_flip_still_have_an_error() -> None:
    values = np.zeros(200)
    found = observed(of_answers(values, Clusters(values, np.ones(200))))
    assert found is not None
    assert found.flip_rate == 2 / 202


def test_text_needs_documents_for_a_test() -> None:
    random = np.random.default_rng(0)
    counts = np.full(20, 1000.0)
    difference = of_tokens(Clusters(random.normal(size=20) * 10, counts))
    found = observed(difference)
    assert found is not None
    assert found.visible(5000) == pytest.approx(2 * (found.visible(20_000) or 0))
    assert found.visible(4999) is None  # fewer than 5 of the 20 documents
    assert found.needed(10.0) == 5000
    assert observed(of_tokens(Clusters(np.ones(3), np.ones(3)))) is None


@pytest.mark.parametrize("size", [0.05, 0.1, 0.5, 1.0])
def test_more_than_the_flip_rate_is_planned_with_flips_of_its_size(size: float) -> None:
    assert assumed_flips(0.01).needed(size) == assumed_flips(size).needed(size)
