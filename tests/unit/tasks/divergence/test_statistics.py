"""Statistics of token pairs against float64 definitions, scipy, and the formulas of llama.cpp."""

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from harness.engines.requests import Compared
from harness.results.record import Metric, Unit
from harness.tasks.divergence.statistics import divergence_metrics


def pairs(windows: int, tokens: int, seed: int = 0) -> Compared:
    """Pairs as a quantized model makes them: alike, and noisier by window than by token."""
    rng = np.random.default_rng(seed)
    base = rng.gamma(1.2, 2.0, (windows, tokens))
    shift = rng.normal(0.05, 0.05, (windows, 1)) + rng.normal(0, 0.1, (windows, tokens))
    return Compared(
        nll=np.abs(base + shift),
        nll_baseline=base,
        kl=rng.gamma(0.5, 0.02, (windows, tokens)),
        same_top=(rng.random((windows, tokens)) < 0.9).astype(float),
    )


def documents_of(found: Compared) -> np.ndarray:
    """Return documents of one window each."""
    return np.repeat(np.arange(len(found.nll))[:, None], found.nll.shape[1], axis=1)


def metrics(found: Compared, documents: np.ndarray | None = None) -> dict[str, Metric]:
    if documents is None:
        documents = documents_of(found)
    return {metric.name: metric for metric in divergence_metrics(found, documents)}


def test_values_are_those_of_the_definitions() -> None:
    found = pairs(12, 40)
    shown = {name: metric.value for name, metric in metrics(found).items()}
    q, p = found.nll.ravel(), found.nll_baseline.ravel()
    dp = np.exp(-q) - np.exp(-p)
    n = q.size
    expected = {
        "kl_mean": found.kl.sum() / n,
        "same_top": found.same_top.sum() / n,
        "delta_p_mean": dp.sum() / n,
        "delta_p_rms": math.sqrt((dp**2).sum() / n),
        "ln_ppl_ratio": q.mean() - p.mean(),
        "ppl_ratio": math.exp(q.mean()) / math.exp(p.mean()),
        "ppl_difference": math.exp(q.mean()) - math.exp(p.mean()),
        "ppl": math.exp(q.mean()),
        "ppl_baseline": math.exp(p.mean()),
        "ppl_correlation": scipy_stats.pearsonr(q, p).statistic,
    }
    shares = {"p99.9": 0.999, "p99": 0.99, "p95": 0.95, "p90": 0.9, "median": 0.5, "p10": 0.1}
    shares |= {"p5": 0.05, "p1": 0.01, "p0.1": 0.001, "min": 0.0, "max": 1.0}
    for prefix, values in (("kl", np.sort(found.kl.ravel())), ("delta_p", np.sort(dp))):
        for name, share in shares.items():
            place = share * (n - 1)
            low, part = values[math.floor(place)], place - math.floor(place)
            high = values[math.ceil(place)]
            expected[f"{prefix}_{name}"] = (1 - part) * low + part * high
    assert shown == pytest.approx(expected, rel=1e-9)


def test_errors_are_those_of_llama_cpp_when_each_window_is_one_token() -> None:
    """The published formulas take tokens for independent; with one token a window they are."""
    n = 60
    found = pairs(n, 1)
    shown = metrics(found)
    q, p = found.nll.ravel(), found.nll_baseline.ravel()

    def variance(x: np.ndarray, y: np.ndarray) -> float:
        """(Co)variance of two means, as llama.cpp writes it."""
        return float(((x * y).mean() - x.mean() * y.mean()) / (n - 1))

    ppl_q, ppl_p = math.exp(q.mean()), math.exp(p.mean())
    same = found.same_top.mean()
    kl = found.kl.ravel()
    errors = {
        "kl_mean": math.sqrt(variance(kl, kl)),
        "same_top": math.sqrt(same * (1 - same) / (n - 1)),
        "delta_p_mean": math.sqrt(variance(found.delta_p.ravel(), found.delta_p.ravel())),
        "ln_ppl_ratio": math.sqrt(variance(q, q) + variance(p, p) - 2 * variance(q, p)),
        "ppl_difference": math.sqrt(
            ppl_q**2 * variance(q, q)
            + ppl_p**2 * variance(p, p)
            - 2 * ppl_q * ppl_p * variance(q, p)
        ),
    }
    quantile = scipy_stats.t.ppf(0.975, n - 1)
    for name, error in errors.items():
        low, high = shown[name].ci95
        assert low == pytest.approx(shown[name].value - quantile * error, rel=1e-6), name
        assert high == pytest.approx(shown[name].value + quantile * error, rel=1e-6), name
    correlation = variance(q, p) / math.sqrt(variance(q, q) * variance(p, p))
    assert shown["ppl_correlation"].value == pytest.approx(correlation, rel=1e-9)


def test_interval_of_the_ratio_is_scipys_paired_one_over_documents_of_equal_length() -> None:
    found = pairs(15, 30)
    shown = metrics(found)
    paired = scipy_stats.ttest_rel(found.nll.mean(axis=1), found.nll_baseline.mean(axis=1))
    low, high = paired.confidence_interval(0.95)
    assert shown["ln_ppl_ratio"].ci95 == pytest.approx((low, high), rel=1e-9)
    assert shown["ppl_ratio"].ci95 == pytest.approx((math.exp(low), math.exp(high)), rel=1e-9)
    rms_low, rms_high = shown["delta_p_rms"].ci95
    squares = (found.delta_p**2).mean(axis=1)
    low, high = scipy_stats.ttest_1samp(squares, 0).confidence_interval(0.95)
    assert (rms_low**2, rms_high**2) == pytest.approx((low, high), rel=1e-9)


def test_interval_is_by_document_whatever_the_windows_are() -> None:
    found = pairs(16, 30)
    # Of a window and a half, of two and of one, and again.
    documents = np.repeat(np.arange(12), [45, 60, 15] * 4).reshape(16, 30)
    low, high = metrics(found, documents)["kl_mean"].ci95
    kl = [found.kl[documents == document] for document in range(12)]
    mean, num = found.kl.mean(), found.kl.size
    left_out = [np.concatenate(kl[:i] + kl[i + 1 :]).mean() for i in range(12)]
    error = math.sqrt(11 / 12 * sum((each - mean) ** 2 for each in left_out))
    freedom = num**2 / sum(len(each) ** 2 for each in kl) - 1
    expected = scipy_stats.t.interval(0.95, freedom, loc=mean, scale=error)
    assert (low, high) == pytest.approx(expected, rel=1e-9)
    assert metrics(found, documents)["kl_mean"].note == "interval by document, 12 of them"


def test_interval_is_wider_than_that_of_independent_tokens_where_windows_differ() -> None:
    found = pairs(20, 200)
    low, high = metrics(found)["ln_ppl_ratio"].ci95
    error = scipy_stats.sem((found.nll - found.nll_baseline).ravel())
    assert high - low > 3 * 2 * 1.96 * error


def test_bounds_stay_where_values_can_be() -> None:
    found = pairs(12, 3)
    kl = np.zeros((12, 3))
    kl[0, 0] = 1.0
    same = np.ones((12, 3))
    same[0, 0] = 0.0
    shown = metrics(found._replace(kl=kl, same_top=same))
    assert shown["kl_mean"].ci95[0] == 0.0
    assert shown["same_top"].ci95[1] == 1.0


def test_equal_models_differ_by_exactly_nothing() -> None:
    nll = pairs(12, 7).nll
    equal = Compared(nll=nll, nll_baseline=nll, kl=0 * nll, same_top=0 * nll + 1)
    shown = metrics(equal)
    for name in ("ppl_ratio", "same_top"):
        assert shown[name].value == 1.0
        assert shown[name].ci95 == (1.0, 1.0)
    for name in ("kl_mean", "delta_p_mean", "delta_p_rms", "ln_ppl_ratio", "ppl_difference"):
        assert shown[name].value == 0.0
        assert shown[name].ci95 == (0.0, 0.0)
    assert shown["ppl"].value == shown["ppl_baseline"].value
    assert shown["ppl_correlation"].value == pytest.approx(1.0)
    assert {m.value for name, m in shown.items() if name.startswith("kl_")} == {0.0}
    assert {m.value for name, m in shown.items() if name.startswith("delta_p")} == {0.0}


def test_few_documents_have_no_interval_but_a_note() -> None:
    for metric in metrics(pairs(4, 50)).values():
        assert metric.ci95 is None
        assert "no interval" in metric.note


def test_correlation_of_a_constant_is_undefined_and_says_so() -> None:
    found = pairs(12, 5)
    shown = metrics(found._replace(nll=np.full((12, 5), math.log(300))))["ppl_correlation"]
    assert shown.value is None
    assert "undefined" in shown.note


def test_units_counts_and_directions() -> None:
    shown = metrics(pairs(12, 40))
    assert next(iter(shown)) == "kl_mean"
    assert {metric.n for metric in shown.values()} == {480}
    nat = {"kl_mean", "ln_ppl_ratio", *(name for name in shown if name.startswith("kl_"))}
    for name, metric in shown.items():
        unit = Unit.FRACTION if name == "same_top" else Unit.ONE
        assert metric.unit is (Unit.NAT_PER_TOKEN if name in nat else unit)
    assert {n for n, m in shown.items() if m.higher_is_better} == {"same_top", "delta_p_mean"}
