"""What net flips can show, against a search through all cases with scipy's exact test."""

import pytest
from scipy import stats

from harness.audit import flips
from harness.audit.flips import Share


def p_value(net: int, total: int) -> float:
    right = (total + net) // 2
    return float(stats.binomtest(right, total).pvalue)


@pytest.mark.parametrize(("num_tests", "fewest"), [(1, 6), (6, 8), (12, 9)])
def test_fewest_net_flips(num_tests: int, fewest: int) -> None:
    assert flips.fewest_net(num_tests) == fewest
    assert 2 * 0.5**fewest < 0.05 / num_tests <= 2 * 0.5 ** (fewest - 1)


@pytest.mark.parametrize("num_tests", [1, 12])
@pytest.mark.parametrize("net", [1, 5, 6, 9, 15, 28])
def test_most_flips_is_that_of_a_search(net: int, num_tests: int) -> None:
    level = 0.05 / num_tests
    below = [total for total in range(net, 400, 2) if p_value(net, total) < level]
    assert flips.most_flips(net, 400, num_tests) == max(below, default=None)


def test_most_flips_stay_below_what_is_possible() -> None:
    assert flips.most_flips(200, 1000) == 1000
    # Of 10 samples one model has 9 right, the other 4: at most one flip goes the other way.
    assert flips.possible_flips(Share(0.4, 0.05), Share(0.9, 0.05), 10) == 7
    assert flips.possible_flips(Share(0.5, 0.05), Share(0.5, 0.05), 10) == 10


def test_net_flips_of_rounded_accuracies_are_a_range() -> None:
    # 50.6 and 50.9 % of 1,000 are 506 and 509 answers.
    first, second = Share(0.506, 0.0005), Share(0.509, 0.0005)
    assert flips.net_flips(first, second, 1000) == (3, 3)
    # Of 14,042 they are 7099 to 7112 and 7141 to 7154 answers.
    numbers = [
        {n for n in range(14043) if round(100 * n / 14042, 1) == 100 * each}
        for each in (0.506, 0.509)
    ]
    apart = [b - a for a in numbers[0] for b in numbers[1]]
    assert flips.net_flips(first, second, 14042) == (min(apart), max(apart))
    # No number of 7 answers is 50.0 %: the nearest is taken.
    assert Share(0.5, 0.0005).rights(7) == (4, 4)


def test_errors_are_those_of_proportions() -> None:
    # By hand: sqrt(2 * 0.506 * 0.494 / 1000), and 2.8016 standard errors for a power of 80 %.
    assert flips.unpaired_error(0.506, 0.506, 1000) == pytest.approx(0.02236, abs=1e-5)
    assert flips.visible(0.02236) == pytest.approx(0.06264, abs=1e-5)
    assert flips.visible(flips.paired_error(0.05, 1000)) == pytest.approx(0.0198, abs=5e-5)
