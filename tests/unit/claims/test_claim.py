"""Divergences from the unquantized model, tested against the noise floor, and margins."""

from pathlib import Path

import builders
import numpy as np
import pytest
from filed import file_with_samples
from scipy import stats as scipy_stats
from studies import MakeRecord

from harness.claims.claim import Claim, answer
from harness.claims.grouping import comparable
from harness.claims.margins import read_margins
from harness.claims.measure import Measure
from harness.claims.sentences import NO_FLOOR, sentence
from harness.claims.verdict import Verdict
from harness.results.record import SampleScore
from harness.results.store import ResultStore

DOCUMENTS, TOKENS = 12, 40
RECIPES = {"int8": 0.003, "int4": 0.4}
"""Mean KL of each recipe [nat/token]."""


def values_of(mean: float) -> np.ndarray:
    """The KL of each token, `[documents, tokens]`; float32, as samples keep it."""
    drawn = np.random.default_rng(round(1e4 * mean)).gamma(2.0, mean / 2, (DOCUMENTS, TOKENS))
    return drawn.astype(np.float32).astype(np.float64)


def file_run(
    root: Path, make_record: MakeRecord, recipe: str, mean: float, *, tokens: bool = True
) -> None:
    kl = values_of(mean)
    samples = [
        SampleScore(
            id=f"window/{i}",
            cluster=str(i),
            scores={"kl": float(row.sum()), "nll": 1.0, "num_tokens": float(TOKENS)},
            token_nll=tuple(np.ones(TOKENS)) if tokens else None,
            token_kl=tuple(row) if tokens else None,
            token_document=(i,) * TOKENS if tokens else None,
        )
        for i, row in enumerate(kl)
    ]
    metric = builders.metric("kl_mean", float(kl.mean()), unit="nat/token", n=kl.size, n_of="token")
    record = make_record(recipe, task="divergence", metrics=(metric,))
    file_with_samples(root, record, samples)


def file_floor(root: Path, make_record: MakeRecord, kl: float) -> None:
    names = ("kl_mean", "ln_ppl_ratio")
    metrics = tuple(
        builders.metric(f"{variant}/{name}", kl, unit="nat/token", n=900, n_of="token")
        for variant in ("batch", "attention")
        for name in names
    )
    record = make_record("none", task="noise_floor", metrics=metrics)
    store = ResultStore(root=root)
    store.write(store.path(record, task="noise_floor", model="m", recipe="none"), record)


def claims_of(root: Path, margins: dict[Measure, float] | None = None) -> dict[str, Claim]:
    answered = answer(comparable(ResultStore(root=root).load()[0]), margins or {})
    found = [c for each in answered for c in each.against_baseline.values()]
    assert all(isinstance(claim, Claim) for claim in found)
    return {claim.row.label: claim for claim in found if isinstance(claim, Claim)}


@pytest.fixture
def study(make_record: MakeRecord, tmp_path: Path) -> Path:
    for recipe, mean in RECIPES.items():
        file_run(tmp_path, make_record, recipe, mean)
    return tmp_path


def test_p_is_one_sided_against_the_noise_floor(make_record: MakeRecord, study: Path) -> None:
    floor = 0.0025
    file_floor(study, make_record, floor)
    found = claims_of(study)
    alone = {
        recipe: scipy_stats.ttest_1samp(values_of(mean).mean(1), floor, alternative="greater")
        for recipe, mean in RECIPES.items()
    }
    p = sorted(each.pvalue for each in alone.values())
    expected = sorted([min(1.0, 2 * p[0]), max(2 * p[0], p[1])])  # Holm over two
    assert sorted(claim.evidence.p or 0 for claim in found.values()) == pytest.approx(expected)
    assert {claim.verdict for claim in found.values()} == {Verdict.WORSE}
    assert "diverges from the unquantized model" in sentence(found["int4"])


def test_without_a_noise_floor_nothing_is_claimed(study: Path) -> None:
    found = claims_of(study)
    for claim in found.values():
        assert claim.evidence.p is None
        assert claim.verdict is Verdict.CANNOT_TELL
        assert claim.difference.interval is not None
        assert NO_FLOOR in sentence(claim)


def test_a_divergence_up_to_the_noise_floor_is_none(make_record: MakeRecord, study: Path) -> None:
    file_floor(study, make_record, 0.1)
    found = claims_of(study)
    assert found["int8"].verdict is Verdict.CANNOT_TELL
    assert found["int4"].verdict is Verdict.WORSE


def test_a_divergence_below_the_margin_is_equivalent_even_without_a_floor(study: Path) -> None:
    found = claims_of(study, read_margins("kl=0.01"))
    assert found["int8"].verdict is Verdict.EQUIVALENT
    assert found["int4"].verdict is Verdict.CANNOT_TELL
    # One-sided t of "0.01 or more" is the larger of the two; Holm over two recipes doubles it.
    alone = scipy_stats.ttest_1samp(values_of(0.003).mean(1), 0.01, alternative="less").pvalue
    assert found["int8"].evidence.p_margin == pytest.approx(2 * alone)


def test_sums_of_windows_have_no_test(make_record: MakeRecord, tmp_path: Path) -> None:
    file_run(tmp_path, make_record, "int8", 0.003, tokens=False)
    file_floor(tmp_path, make_record, 1e-9)
    found = claims_of(tmp_path)["int8"]
    assert found.evidence.p is None
    assert found.verdict is Verdict.CANNOT_TELL
    assert found.difference.test.startswith("no interval: the samples have sums of windows")
