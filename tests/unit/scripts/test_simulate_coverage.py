"""Coverage of the intervals over text, in a simulation with documents and autocorrelated windows."""

from types import ModuleType

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats as scipy_stats
from script_modules import load_script

STUDIES = 1000
CHANCE = 0.001
"""How rarely a method whose coverage is at the limit would fail a test here; the seed is fixed."""


@pytest.fixture(scope="module")
def simulation() -> ModuleType:
    return load_script("simulate_coverage")


def is_within_two_points(held: np.ndarray) -> bool:
    """Whether a coverage of 93 to 97 % is consistent with the studies that held the truth."""
    count = int(held.sum())
    at_least = scipy_stats.binom.cdf(count, len(held), 0.93)
    at_most = scipy_stats.binom.sf(count - 1, len(held), 0.97)
    return bool(at_least > CHANCE and at_most > CHANCE)


@pytest.mark.parametrize(
    "text", ["5 of equal length", "first 8 articles", "40 windows, 17 articles", "all, 62 articles"]
)
@pytest.mark.parametrize(
    "effects",
    [
        "level of a perplexity",
        "difference, windows correlate little",
        "difference, windows correlate much",
        "skewed to the left (-1)",
    ],
)
def test_intervals_hold_the_truth_in_95_of_100_studies_and_those_over_windows_do_not(
    simulation: ModuleType, text: str, effects: str
) -> None:
    lengths, parts = simulation.TEXTS[text], simulation.EFFECTS[effects]
    studies = simulation.simulate(lengths, parts, STUDIES, seed=12)
    assert is_within_two_points(simulation.ours(studies))
    if effects != "difference, windows correlate little":
        assert simulation.over_windows(studies).mean() < 0.9


def test_usual_cluster_robust_interval_is_too_narrow_for_unequal_documents(
    simulation: ModuleType,
) -> None:
    lengths = simulation.TEXTS["first 10 articles"]
    parts = simulation.EFFECTS["level of a perplexity"]
    studies = simulation.simulate(lengths, parts, 4 * STUDIES, seed=12)
    assert not is_within_two_points(simulation.cr1(studies))
    assert is_within_two_points(simulation.ours(studies))


def test_windows_are_autocorrelated_and_the_mean_is_zero(simulation: ModuleType) -> None:
    parts = simulation.EFFECTS["level of a perplexity"]
    studies = simulation.simulate(simulation.ARTICLES, parts, 200, seed=0)
    windows = studies.windows
    lags = [np.corrcoef(text[:-1], text[1:])[0, 1] for text in windows]
    # As measured over 40 windows of SmolLM2-135M: 0.47.
    assert 0.4 < float(np.mean(lags)) < 0.65
    error = windows.mean(1).std() / np.sqrt(200)
    assert abs(windows.mean()) < 4 * error


def test_column_cr1_is_statsmodels(simulation: ModuleType) -> None:
    studies = simulation.simulate((640, 1280, 64, 6400), simulation.EFFECTS["drift alone"], 30, 4)
    expected = []
    for sums in studies.sums:
        # Weighted means of documents have the sums of a regression of their tokens.
        model = sm.WLS(sums / studies.counts, np.ones(4), weights=studies.counts)
        fit = model.fit(cov_type="cluster", cov_kwds={"groups": np.arange(4)}, use_t=True)
        low, high = fit.conf_int()[0]
        expected.append(low <= 0 <= high)
    assert simulation.cr1(studies).tolist() == expected
    assert 0 < sum(expected) < 30


def test_few_documents_have_no_interval_of_ours(simulation: ModuleType) -> None:
    parts = simulation.EFFECTS["drift alone"]
    studies = simulation.simulate(simulation.TEXTS["first 5 articles"], parts, 3, seed=0)
    assert simulation.ours(studies) is None


def test_table_has_every_method(simulation: ModuleType) -> None:
    found = simulation.table(3)
    assert len(found) == len(simulation.TEXTS) * len(simulation.EFFECTS)
    assert list(found.columns) == ["effects", "documents", *simulation.METHODS]
