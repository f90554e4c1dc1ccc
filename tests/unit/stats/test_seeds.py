"""Differences over calibration seeds: hand-made numbers, Welch's test of scipy, and coverage."""

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from harness.stats import Clusters, clustered
from harness.stats.difference import Difference
from harness.stats.seeds import answers_over_seeds, over_seeds

BY_HAND = [
    Clusters(np.array(sums), np.full(5, 2.0))
    for sums in ([2.0, 4.0, 6.0, 8.0, 10.0], [4.0, 6.0, 8.0, 10.0, 12.0], [0.0, 2.0, 4.0, 6.0, 8.0])
]
"""Means of five documents with two tokens each: 1 2 3 4 5, the same + 1, the same - 1."""


def documents(values: np.ndarray) -> list[Clusters]:
    """Return documents of one token each: `values` is `[seeds, documents]`."""
    return [Clusters(each, np.ones_like(each)) for each in values]


def test_both_parts_of_the_error_by_hand() -> None:
    found = over_seeds(BY_HAND)
    assert found.value == pytest.approx(3.0)  # of 3, 4 and 2
    assert found.deviation == pytest.approx(1.0)
    welch, alone = found.estimates
    # Documents: the mean of 1 2 3 4 5 has the variance 2.5 / 5. Seeds: 1 / 3.
    assert welch.error**2 == pytest.approx(0.5 + 1 / 3)
    assert welch.freedom == pytest.approx((0.5 + 1 / 3) ** 2 / (0.5**2 / 4 + (1 / 3) ** 2 / 2))
    assert (alone.error**2, alone.freedom) == (pytest.approx(1 / 3), 2)
    assert found.test == "t by document, 5 of them, and by calibration seed, 3 of them"


def test_error_and_freedom_are_those_of_welch_s_test_of_scipy() -> None:
    # The means over documents and over seeds are two samples whose means' errors are added.
    random = np.random.default_rng(3)
    values = random.normal(0.1, 1.0, 12) + random.normal(0.0, 0.4, (4, 1))
    welch = over_seeds(documents(values)).estimates[0]
    of_documents, of_seeds = values.mean(axis=0), values.mean(axis=1)
    expected = scipy_stats.ttest_ind(of_documents, -of_seeds, equal_var=False)
    assert welch.freedom == pytest.approx(expected.df, rel=1e-12)
    both = of_documents.mean() + of_seeds.mean()
    assert welch.error == pytest.approx(both / expected.statistic, rel=1e-12)


def test_seeds_that_agree_leave_the_interval_of_the_items() -> None:
    values = np.random.default_rng(0).normal(0.1, 1.0, 12)
    found = over_seeds(documents(np.tile(values, (3, 1))))
    expected = scipy_stats.ttest_1samp(values, 0)
    assert found.deviation == 0
    assert found.p == pytest.approx(expected.pvalue, rel=1e-9)
    assert found.interval == pytest.approx(expected.confidence_interval(0.95), rel=1e-9)


def test_seeds_that_differ_more_than_items_leave_student_s_t_over_seeds() -> None:
    values = np.array([[-30.0], [10.0], [35.0]]) + np.random.default_rng(0).normal(0, 1e-3, 12)
    found = over_seeds(documents(values))
    expected = scipy_stats.ttest_1samp(values.mean(axis=1), 0)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-6)
    assert found.interval == pytest.approx(expected.confidence_interval(0.95), rel=1e-6)


@pytest.mark.parametrize(("seeds", "words"), [(1, "1 calibration seed;"), (2, "2 calibration")])
def test_one_or_two_seeds_have_no_test(seeds: int, words: str) -> None:
    found = over_seeds(BY_HAND[:seeds])
    assert (found.p, found.interval) == (None, None)
    assert found.test.startswith(f"no test: {words}")
    assert found.deviation == (None if seeds == 1 else pytest.approx(math.sqrt(0.5)))


def test_too_few_documents_have_no_test_however_many_the_seeds() -> None:
    found = over_seeds([Clusters(each.sums[:3], each.counts[:3]) for each in BY_HAND])
    assert found.interval is None
    assert found.test.startswith("no interval from 3 documents")


def test_more_items_are_not_promised_to_show_a_difference() -> None:
    assert over_seeds(BY_HAND).items_to_see(0.1) is None


def test_answers_are_tested_by_question_and_by_subject() -> None:
    random = np.random.default_rng(5)
    subjects = np.repeat(np.arange(8), 25)
    answers = random.choice([-1.0, 0.0, 1.0], p=[0.1, 0.85, 0.05], size=(3, 200))
    found = answers_over_seeds([*answers], [clustered(each, subjects) for each in answers])
    assert found.value == pytest.approx(answers.mean())
    assert found.num_items == 200
    by_question, by_subject, _ = found.estimates
    between = answers.mean(axis=1).var(ddof=1) / 3
    one_flip_more = np.append(answers.mean(axis=0), (1.0, -1.0))
    assert by_question.error**2 == pytest.approx(scipy_stats.sem(one_flip_more) ** 2 + between)
    of_subjects = answers.mean(axis=0).reshape(8, 25).mean(axis=1)
    assert by_subject.error**2 == pytest.approx(scipy_stats.sem(of_subjects) ** 2 + between)
    words = "t by question and by subject, 8 of them, and by calibration seed, 3 of them"
    assert found.test == words


def test_no_flip_in_any_seed_is_not_a_proof_of_equality() -> None:
    nothing = [np.zeros(50)] * 3
    found = answers_over_seeds(nothing, [clustered(each, [0] * 50) for each in nothing])
    assert found.p == 1.0
    assert found.interval is not None
    assert found.interval.low < -0.02
    assert found.interval.high > 0.02


@pytest.mark.parametrize("between", [0.0, 1.0, 3.0, 10.0])
def test_95_percent_of_the_intervals_of_three_seeds_hold_the_truth(between: float) -> None:
    """Between-seed deviations are in standard errors of the mean over documents."""
    random = np.random.default_rng(round(between))
    studies, num = 1000, 40

    def study() -> Difference:
        of_documents = random.normal(0.0, 1.0, num)
        of_seeds = random.normal(0.0, between / math.sqrt(num), (3, 1))
        return over_seeds(documents(of_documents + of_seeds + random.normal(0.0, 0.3, (3, num))))

    found = [interval for _ in range(studies) if (interval := study().interval) is not None]
    covered = sum(low <= 0 <= high for low, high in found) / studies
    # 95 to 96 %, and two binomial standard errors
    assert 0.936 <= covered <= 0.974
