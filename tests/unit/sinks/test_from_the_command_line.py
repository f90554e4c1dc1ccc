"""`track=` and `push=` as typed: checked first, sent after the record is on file, sent again."""

import json
import sys
from pathlib import Path

import pytest
from architectures import save
from huggingface_hub import ModelCard

import harness
from harness.errors import ConfigError, OutputError
from harness.output.export_folder import MANIFEST, README
from harness.results.store import ResultStore
from harness.sinks import MlflowTracker
from harness.sinks.facts import Facts

SMALL = ("data=embedded", "device=cpu", "task.window=64", "task.limit_windows=2")


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def records() -> int:
    return len([*Path("results").rglob("*.json")])


def test_a_missing_package_is_said_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(ConfigError, match=r"pip install 'llm-quant-harness\[mlflow\]'"):
        harness.run("model=tiny", *SMALL, "track=mlflow")
    assert not Path("results").exists()


def test_a_record_is_sent_after_it_is_filed_and_again_by_the_same_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent: list[Facts] = []

    def send(tracker: MlflowTracker, facts: Facts) -> None:
        assert tracker.project == "mine"
        assert facts.record.exists()
        sent.append(facts)
        if len(sent) == 1:
            raise ConnectionError("no network")

    monkeypatch.setattr(MlflowTracker, "check", lambda tracker: None)
    monkeypatch.setattr(MlflowTracker, "send", send)
    words = ("model=tiny", *SMALL, "track=mlflow", "track.project=mine")
    with pytest.raises(OutputError, match="repeat the command to send it"):
        harness.run(*words)
    record = harness.run(*words)
    assert [facts.run_id for facts in sent] == [record.run_id] * 2
    # The tracker is no part of the run's identity.
    assert harness.run("model=tiny", *SMALL) == record
    assert records() == 1


def test_a_run_of_an_exported_folder_writes_its_card(tmp_path: Path) -> None:
    folder = tmp_path / "exported"
    save("llama", folder)
    (folder / README).write_text("---\ntags: [quantized]\n---\n# Text\n")
    (folder / MANIFEST).write_text(json.dumps({"files": []}))
    words = ("model=local", f"model.path={folder}", *SMALL, "push=me/my-int4")
    record = harness.run(*words)
    (result,) = ModelCard.load(folder / README).data.eval_results
    assert result.metric_value == record.metrics[0].value
    before = (folder / README).read_text()
    assert harness.run(*words) == record, "the card must not change the identity of the weights"
    assert (folder / README).read_text() == before


def test_push_without_an_exported_folder_is_said_first() -> None:
    with pytest.raises(ConfigError, match="push must go with a folder"):
        harness.run("model=tiny", *SMALL, "push=me/my-int4")
    assert not ResultStore(root=Path("results")).root.exists()
