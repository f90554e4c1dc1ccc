"""The test of two models' times in the same rounds, beside an enumeration of all signs."""

from itertools import product

import numpy as np
import pytest

from harness.stats.rounds import least_p, signed_rank


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("shift", [0.0, 0.03])
def test_p_is_the_share_of_signs_whose_ranks_are_as_uneven(seed: int, shift: float) -> None:
    random = np.random.default_rng(seed)
    float_s, recipe_s = random.lognormal(shift, 0.05, 10), random.lognormal(0.0, 0.05, 10)
    logs = np.log(float_s / recipe_s)
    ranks = np.abs(logs).argsort().argsort() + 1
    middle = ranks.sum() / 2
    seen = abs(ranks[logs > 0].sum() - middle)
    signs = np.array([*product([False, True], repeat=10)])
    as_uneven = np.abs(signs @ ranks - middle) >= seen
    assert signed_rank(float_s, recipe_s) == pytest.approx(as_uneven.mean(), rel=1e-12)


@pytest.mark.parametrize("rounds", [10, 12, 20])
def test_least_p_is_that_of_a_model_that_is_always_faster(rounds: int) -> None:
    float_s = np.linspace(1.1, 1.2, rounds)
    assert signed_rank(float_s, np.ones(rounds)) == pytest.approx(least_p(rounds), rel=1e-12)


def test_disturbances_of_whole_rounds_do_not_matter() -> None:
    random = np.random.default_rng(0)
    float_s, recipe_s = random.lognormal(0.05, 0.03, 10), random.lognormal(0.0, 0.03, 10)
    disturbed = random.lognormal(0.0, 0.5, 10)
    expected = signed_rank(float_s, recipe_s)
    assert signed_rank(float_s * disturbed, recipe_s * disturbed) == pytest.approx(expected)


def test_equal_times_are_no_evidence() -> None:
    assert signed_rank(np.ones(10), np.ones(10)) == 1.0


def test_models_of_equal_speed_are_told_apart_in_5_percent_of_the_studies_at_most() -> None:
    random = np.random.default_rng(0)
    shared = random.lognormal(0.0, 0.1, (2000, 10))  # of a round, beside a long tail to one side
    times = shared * (1 + random.exponential(0.05, (2, 2000, 10)))
    false = sum(signed_rank(one, other) < 0.05 for one, other in zip(*times, strict=True))
    assert false <= 2000 * 0.05 + 2 * np.sqrt(2000 * 0.05 * 0.95)
