"""Corrections for many comparisons, Cochran's Q, and the letters of tiers."""

from itertools import combinations

import numpy as np
import pytest
from scipy import stats as scipy_stats

from harness.stats.families import benjamini_hochberg, cochran, holm, tiers

P_VALUES = [0.01, 0.04, 0.03, 0.005]


def test_holm_by_hand() -> None:
    # Sorted: 0.005 x 4, 0.01 x 3, 0.03 x 2, 0.04 x 1, and never below the one before.
    assert holm(P_VALUES) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_benjamini_hochberg_is_scipy_s() -> None:
    expected = scipy_stats.false_discovery_control(P_VALUES, method="bh")
    assert benjamini_hochberg(P_VALUES) == pytest.approx(expected)


def test_no_test_needs_no_correction() -> None:
    assert (holm([]), benjamini_hochberg([])) == ([], [])


def test_cochran_of_two_models_is_mcnemar_s_chi_square() -> None:
    first = np.repeat([1, 1, 0, 0], [40, 12, 4, 30])
    second = np.repeat([1, 0, 1, 0], [40, 12, 4, 30])
    statistic = (12 - 4) ** 2 / (12 + 4)
    expected = scipy_stats.chi2.sf(statistic, 1)
    assert cochran(np.column_stack([first, second])) == pytest.approx(expected)


def test_models_that_answer_alike_do_not_differ() -> None:
    assert cochran(np.ones((10, 3))) == 1.0


def test_letters_are_shared_by_those_that_cannot_be_told_apart() -> None:
    order = ["int8", "fp8", "int4", "int3"]
    different = {("int8", "int4"), ("int8", "int3"), ("fp8", "int3"), ("int4", "int3")}
    p = {pair: 0.001 if pair in different else 0.6 for pair in combinations(order, 2)}
    assert tiers(p, order) == {"int8": "a", "fp8": "ab", "int4": "b", "int3": "c"}


def test_letters_say_exactly_which_pairs_differ() -> None:
    random = np.random.default_rng(3)
    for _ in range(50):
        order = list(range(7))
        p = {pair: float(random.choice([0.01, 0.5])) for pair in combinations(order, 2)}
        letters = tiers(p, order)
        for (a, b), value in p.items():
            assert bool(set(letters[a]) & set(letters[b])) is (value >= 0.05)


@pytest.mark.parametrize("seed", range(5))
def test_holm_is_its_closed_form(seed: int) -> None:
    """The i-th smallest of m p-values is rejected if (m - j) p_j < 5 % for all j up to i."""
    p_values = np.random.default_rng(seed).uniform(0, 0.1, 12)
    order = np.argsort(p_values)
    scaled = (12 - np.arange(12)) * p_values[order]
    expected = np.minimum(np.maximum.accumulate(scaled), 1.0)
    assert np.array(holm(p_values.tolist()))[order] == pytest.approx(expected)
