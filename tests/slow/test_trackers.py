"""The packages of trackers themselves; each test needs the extra of its name."""

from pathlib import Path

import pytest
from builders import metric, record

from harness.results.store import Stored
from harness.sinks import MlflowTracker, TrackioTracker, WandbTracker
from harness.sinks.facts import Facts, facts_of

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # warnings of their own


@pytest.fixture(name="facts")
def facts_of_a_record(tmp_path: Path) -> Facts:
    found = record(metrics=(metric(value=7.5), metric("perplexity/first_512", 9.0)))
    path = tmp_path / "record.json"
    path.write_text(found.model_dump_json())
    return facts_of(Stored(path=path, record=found), ["int8_row: worse"])


def test_mlflow_has_one_run_a_record(
    facts: Facts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    for _ in range(2):
        MlflowTracker().send(facts)
    client = mlflow.MlflowClient()
    place = client.get_experiment_by_name("quant-harness").experiment_id
    (run,) = client.search_runs([place])
    assert run.data.metrics["perplexity"] == 7.5
    assert run.data.metrics["perplexity.first_512"] == 9.0
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["record.json"]


def test_trackio_has_one_run_a_record(
    facts: Facts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))  # read when the package is imported
    trackio = pytest.importorskip("trackio")
    for _ in range(2):
        TrackioTracker(project="of_a_test").send(facts)
    assert len([*trackio.Api().runs("of_a_test")]) == 1


def test_wandb_has_one_id_a_record(
    facts: Facts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    WandbTracker().send(facts)
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    assert folder.name.endswith(facts.run_id)
