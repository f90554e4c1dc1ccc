from pathlib import Path

import pytest
from builders import metric, record

from harness.results.record import RunRecord
from harness.results.store import Stored
from harness.sinks.facts import Facts, facts_of


def of(found: RunRecord, *sentences: str) -> Facts:
    return facts_of(Stored(path=Path("results/one.json"), record=found), sentences)


def test_numbers_have_their_interval_and_n() -> None:
    numbers = of(record(metrics=(metric(value=7.5, ci95=(7.0, 8.0), n=63),))).numbers
    assert numbers == {
        "perplexity": 7.5,
        "perplexity.low": 7.0,
        "perplexity.high": 8.0,
        "perplexity.n": 63,
    }


def test_a_number_without_value_is_left_out() -> None:
    assert of(record(metrics=(metric(value=None, note="no text"),))).numbers == {}


def test_no_key_is_a_folder_of_another() -> None:
    # MLflow's file store keeps `a/b` in a folder `a`, where the file of the metric `a` is already.
    names = ("perplexity", "perplexity/first_512")
    numbers = of(record(metrics=tuple(metric(name) for name in names))).numbers
    assert not any("/" in key for key in numbers)
    assert {"perplexity", "perplexity.first_512"} <= numbers.keys()


def test_settings_repeat_the_run() -> None:
    found = record(recipe="int8_row")
    facts = of(found, "int8_row: worse", "warning: chance")
    assert found.task is not None
    assert facts.settings["command"] == found.command
    assert facts.settings["protocol"] == found.task.protocol
    assert facts.name == f"int8_row {found.task.name}"
    assert facts.verdict == "int8_row: worse\nwarning: chance"


def test_a_record_without_task_is_refused() -> None:
    with pytest.raises(ValueError, match="must have a task"):
        of(record(status="error", task=None))
