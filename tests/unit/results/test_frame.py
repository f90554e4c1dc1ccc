"""A folder of records as one table."""

import math
import warnings
from pathlib import Path

import pandas as pd
import pytest
from builders import metric, record
from repository import ROOT

from harness.errors import ResultError
from harness.results import load_results
from harness.results.record import RunRecord
from harness.results.store import ResultStore, read


def filed(root: Path, *records: RunRecord) -> Path:
    store = ResultStore(root=root)
    for each in records:
        store.write(store.path(each, task="t", model="m", recipe="r"), each)
    return root


def test_a_row_has_the_headline_with_its_interval_and_every_metric(tmp_path: Path) -> None:
    nll = metric("nll", 1.95, unit="nat/token")
    whole = record(metrics=(metric(ci95=(6.5, 7.75), note="interval by document"), nll))
    table = load_results(filed(tmp_path, whole))
    [row] = table.to_dict("records")
    [path] = tmp_path.glob("*/*/*.json")
    assert row == {
        "task": "perplexity",
        "version": 1,
        "protocol": "L=64",
        "model": "tiny",
        "recipe": "int8_row",
        "kind": "fake-quant",
        "backend": "fake",
        "bits_per_weight": 18.6,
        "metric": "perplexity",
        "value": 7.0625,
        "low": 6.5,
        "high": 7.75,
        "n": 63,
        "n_of": "token",
        "unit": "1",
        "note": "interval by document",
        "status": "ok",
        "warnings": whole.warnings,
        "path": str(path),
        "perplexity": 7.0625,
        "nll": 1.95,
    }


def test_every_finished_run_is_a_row_and_what_it_lacks_is_missing(tmp_path: Path) -> None:
    nothing = {"model": None, "quant": None, "task": None, "metrics": ()}
    failed = record(run_id="0-1", status="error", **nothing)
    running = record(run_id="0-2", status="running", **nothing)
    table = load_results(filed(tmp_path, failed, running, record()))
    assert list(table.status) == ["error", "ok"]
    assert list(table.iloc[0][["task", "model"]]) == ["t", "m"], "the folders of its file"
    assert table.iloc[0][["recipe", "value", "low", "n"]].isna().all()
    assert load_results(filed(tmp_path / "b", running)).empty


def test_a_damaged_file_is_a_warning_and_costs_its_own_row_alone(tmp_path: Path) -> None:
    root = filed(tmp_path, record())
    (root / "t" / "m" / "torn.json").write_text("{")
    with pytest.warns(UserWarning, match=r"torn\.json must be a whole record"):
        table = load_results(root)
    assert len(table) == 1


def test_a_record_that_is_known_to_be_wrong_is_a_warning_and_no_row(tmp_path: Path) -> None:
    checkpoint = {"name": "none", "formats": {"checkpoint": "int4"}}
    whole = record(task={"name": "divergence"}, quant=checkpoint)
    with pytest.warns(UserWarning, match=r"is known to be wrong: the checkpoint came quantized"):
        table = load_results(filed(tmp_path, whole, record(run_id="0-2")))
    assert list(table.task) == ["perplexity"]


def test_an_interval_over_windows_is_replaced_by_a_note_that_says_why(tmp_path: Path) -> None:
    [row] = load_results(filed(tmp_path, record())).to_dict("records")
    assert math.isnan(row["low"])
    assert math.isnan(row["high"])
    assert row["note"].startswith("no interval: the one on file takes windows for independent")


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match=r"must hold records, got .*nowhere, which is not a"):
        load_results(tmp_path / "nowhere")


def test_a_published_study_is_read_whole_and_numbers_are_numbers() -> None:
    folder = ROOT / "results" / "published" / "divergence-smollm2"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = load_results(str(folder))
    assert len(table) == len([*folder.glob("*/*/*.json")])
    for path, value, low in zip(table.path, table.value, table.low, strict=True):
        headline = read(Path(path)).metrics[0]
        assert value == headline.value
        assert pd.isna(low) or (headline.ci95 and low == headline.ci95[0])
    numbers = table.drop(columns=["version", "n"]).select_dtypes("number").columns
    assert {"value", "low", "high", "bits_per_weight", "kl_p99"} <= {*numbers}
