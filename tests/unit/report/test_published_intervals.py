"""Published perplexities: intervals by document, beside statsmodels' and those over windows."""

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from repository import ROOT

from harness import stats
from harness.claims import Answered, Claim, answer
from harness.claims.grouping import Group, Row, comparable
from harness.results.store import ResultStore, Stored, read_samples
from harness.tasks.windows import document_words

RESULTS = ROOT / "results" / "published"
STUDIES = ("formats-smollm2", "granularity-smollm2")
WARNING = "computed anew by scripts/add_documents.py"


def perplexities(study: str) -> list[Stored]:
    stored, problems = ResultStore(root=RESULTS / study).load()
    assert not problems
    return [item for item in stored if item.record.task and item.record.task.name == "perplexity"]


@pytest.fixture(scope="module")
def formats() -> Group:
    (group,) = comparable(perplexities("formats-smollm2"))
    return group


def row_of(group: Group, label: str) -> Row:
    return next(row for row in group.rows if row.label == label)


def tokens(row: Row) -> tuple[np.ndarray, np.ndarray]:
    frame: pd.DataFrame = read_samples(row.stored)
    nll = np.stack(frame["token_nll"].to_list()).astype(np.float64)
    return nll, np.stack(frame["token_document"].to_list())


# Recomputed outside of this project from the same 40 windows.
@pytest.mark.parametrize(
    ("label", "mean", "over_windows", "by_document"),
    [
        ("int8_row", 0.00238, 0.000411, 0.000511),
        ("fp8_row", 0.02148, 0.001225, 0.001755),
        ("nf4_b64", 0.24987, 0.00495, 0.00948),
        ("int3_g64", 2.67614, 0.0531, 0.1186),
        ("baseline", 3.01457, 0.0457, 0.0624),
    ],
)
def test_errors_are_those_of_the_documents_on_file(
    formats: Group, label: str, mean: float, over_windows: float, by_document: float
) -> None:
    nll, documents = tokens(row_of(formats, label))
    if label != "baseline":
        nll = nll - tokens(row_of(formats, "baseline"))[0]
    assert nll.shape == (40, 2047)
    fit = sm.OLS(nll.ravel(), np.ones(nll.size)).fit(
        cov_type="cluster", cov_kwds={"groups": documents.ravel()}, use_t=True
    )
    assert fit.params[0] == pytest.approx(mean, abs=6e-6)
    assert fit.bse[0] == pytest.approx(by_document, rel=2e-3)
    assert nll.mean(1).std(ddof=1) / np.sqrt(40) == pytest.approx(over_windows, rel=2e-3)
    # Ours leaves out each document once, and takes the 17 for as few as they are worth.
    found = stats.clustered(nll, documents)
    assert len(found.sums) == 17
    assert found.effective == pytest.approx(10.1, abs=0.05)
    bounds = found.interval()
    assert bounds is not None
    assert 1 < (bounds.high - bounds.low) / np.ptp(fit.conf_int()[0]) < 1.2


def test_every_published_perplexity_has_its_interval_by_document_and_says_where_it_is_from() -> (
    None
):
    checked = 0
    for study in STUDIES:
        for item in perplexities(study):
            record = item.record
            nll = record.metric("nll")
            frame = read_samples(item)
            assert record.task is not None
            assert nll is not None
            assert record.task.data["num_documents"] == 17
            assert nll.note == "interval by document, 17 of them"
            found = stats.clustered(
                np.concatenate(frame["token_nll"].to_list()),
                np.concatenate(frame["token_document"].to_list()),
            )
            assert nll.value == pytest.approx(found.mean, rel=1e-12)
            assert nll.ci95 == pytest.approx(found.interval(), rel=1e-9)
            assert list(frame["cluster"]) == [document_words(x) for x in frame["token_document"]]
            assert [WARNING in warning for warning in record.warnings].count(True) == 1
            checked += 1
    assert checked == 33


def test_verdicts_of_the_published_differences(formats: Group) -> None:
    (answered,) = answer([formats])
    verdicts = {each.row.label: each.verdict for each in claims_of(answered)}
    assert set(verdicts.values()) == {"worse"}
    (answered,) = answer(comparable(perplexities("granularity-smollm2")))
    (found,) = (each for each in claims_of(answered) if each.row.label == "int8_g64")
    assert found.verdict == "cannot tell"


def claims_of(answered: Answered) -> list[Claim]:
    return [each for each in answered.against_baseline.values() if isinstance(each, Claim)]
