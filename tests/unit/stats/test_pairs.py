"""p-values of all pairs together are those of one pair at a time."""

from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from harness.stats import clustered
from harness.stats.clusters import Clusters
from harness.stats.difference import of_tokens
from harness.stats.estimate import Estimate
from harness.stats.pairs import p_by_cluster, p_of_flips


def test_flips_have_the_p_of_the_binomial_test() -> None:
    flips = np.array([(a, b) for a in range(40) for b in range(40) if a + b])
    expected = [stats.binomtest(int(a), int(a + b)).pvalue for a, b in flips]
    np.testing.assert_allclose(p_of_flips(*flips.T), expected, rtol=1e-9)
    assert p_of_flips(np.array([0.0]), np.array([0.0])) == 1.0


def test_clusters_have_the_p_of_each_pair() -> None:
    random = np.random.default_rng(0)
    documents = random.integers(0, 12, 500)
    runs = [random.normal(0.1 * run, 1, 500) for run in range(5)]
    runs.append(runs[0])  # no difference at all
    found = [clustered(run, documents) for run in runs]
    pairs = [*combinations(found, 2)]
    sums = np.column_stack([a.sums - b.sums for a, b in pairs])
    expected = [of_tokens(Clusters(a.sums - b.sums, a.counts)).p for a, b in pairs]
    assert 1.0 in expected
    assert p_by_cluster(sums, found[0].counts) == pytest.approx(expected, rel=1e-9)


def test_an_equal_difference_in_every_cluster_has_no_error() -> None:
    assert p_by_cluster(np.ones((8, 1)), np.ones(8)) == [0.0]
    assert p_by_cluster(np.ones((4, 1)), np.ones(4)) is None


@pytest.mark.parametrize("freedom", [1.3, 4.0, 61.7, np.inf])
def test_student_s_t_is_scipy_s(freedom: float) -> None:
    found = Estimate(0.3, 0.2, freedom)
    assert found.p_above(0.1) == stats.t.sf((0.3 - 0.1) / 0.2, freedom)
    spread = stats.t.ppf(0.975, freedom) * 0.2
    assert found.interval() == (0.3 - spread, 0.3 + spread)
