"""Model cards and `.eval_results` are read back by huggingface_hub."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from builders import metric, record
from huggingface_hub import ModelCard, parse_eval_result_entries

from harness.errors import ConfigError
from harness.output.export_folder import MANIFEST, README, is_export
from harness.results.record import RunRecord, TaskInfo, Unit
from harness.results.store import Stored
from harness.sinks.card import CardTarget

CARD = "---\nlibrary_name: transformers\ntags: [quantized]\n---\n# A model\n\nSome text.\n"


@pytest.fixture(name="folder")
def exported_folder(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "exported"
    folder.mkdir()
    (folder / README).write_text(CARD)
    (folder / MANIFEST).write_text(json.dumps({"files": [README, MANIFEST]}))
    yield folder
    # Whatever was added, the folder can still be replaced by another export.
    assert is_export(folder)


def mmlu(accuracy: float = 0.253, **changes: Any) -> RunRecord:
    task = TaskInfo(
        name="mmlu",
        version=1,
        protocol="mmlu/test|shots=5|questions=1000-by-seed-42",
        data={"name": "mmlu/test", "revision": "a" * 40},
    )
    share = metric(
        "accuracy",
        accuracy,
        unit=Unit.FRACTION,
        n=1000,
        n_of="question",
        ci95=(0.227, 0.2809),
        higher_is_better=True,
    )
    created = datetime(2026, 12, 1, tzinfo=UTC)
    return record(**{"task": task, "metrics": (share,), "created": created} | changes)


def send(folder: Path, *records: RunRecord) -> ModelCard:
    for found in records:
        target = CardTarget(repository="me/my-int4", folder=folder)
        target.send(Stored(path=folder.parent / "record.json", record=found))
    return ModelCard.load(folder / README)


def test_the_card_has_the_headline_with_interval_and_n(folder: Path) -> None:
    card = send(folder, mmlu())
    assert card.data.model_name == "me/my-int4"
    (result,) = card.data.eval_results
    assert (result.dataset_type, result.dataset_config) == ("cais/mmlu", "all")
    assert result.metric_value == 25.3
    assert result.metric_name == "accuracy: 25.30 % [22.70 %, 28.09 %], n = 1,000 questions"


def test_the_rest_of_the_card_stays(folder: Path) -> None:
    card = send(folder, mmlu())
    assert card.data.tags == ["quantized"]
    assert card.text.strip() == "# A model\n\nSome text."


def test_a_result_is_replaced_and_another_task_is_added(folder: Path) -> None:
    own_text = record(metrics=(metric(value=7.5),))
    card = send(folder, mmlu(0.253), own_text, mmlu(0.26))
    found = {result.task_name: result.metric_value for result in card.data.eval_results}
    assert found == {own_text.task and own_text.task.name: 7.5, "mmlu": 26.0}
    assert len(card.data.eval_results) == 2


def test_data_of_the_hub_has_an_entry(folder: Path) -> None:
    send(folder, mmlu())
    (file,) = (folder / ".eval_results").iterdir()
    (entry,) = parse_eval_result_entries(yaml.safe_load(file.read_text()))
    assert file.name == "mmlu.yaml"
    assert (entry.dataset_id, entry.task_id, entry.value) == ("cais/mmlu", "all", 25.3)
    assert (entry.dataset_revision, entry.date) == ("a" * 40, "2026-12-01")
    assert entry.notes is not None
    assert "shots=5" in entry.notes


def test_own_data_has_none(folder: Path) -> None:
    send(folder, record(metrics=(metric(),)))
    assert not (folder / ".eval_results").exists()


@pytest.mark.parametrize("repository", ["", "me", "me/a/b", "me/a b", "../x/y"])
def test_a_repository_has_an_owner_and_a_name(repository: str, folder: Path) -> None:
    with pytest.raises(ConfigError, match="push must be OWNER/NAME"):
        CardTarget.of(repository, {"model": {"path": str(folder)}})


@pytest.mark.parametrize("key", ["model", "engine"])
def test_the_folder_is_that_of_model_or_engine(key: str, folder: Path) -> None:
    others = {"model": None, "engine": {"_target_": "harness.engines.local.Local"}}
    found = CardTarget.of("me/my-int4", {**others, key: {"path": str(folder)}})
    assert found.folder == folder


def test_a_folder_of_others_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must go with a folder that quant-harness export wrote"):
        CardTarget.of("me/my-int4", {"model": {"path": str(tmp_path)}})


def test_a_model_without_folder_is_refused() -> None:
    with pytest.raises(ConfigError, match="got a model that is no folder"):
        CardTarget.of("me/my-int4", {"model": {"_target_": "harness.models.sources.TinyModel"}})
