"""The record: a closed schema without NaN, whole when it says ok."""

import json
import math
from typing import Any

import pytest
from builders import record
from pydantic import BaseModel, ValidationError

from harness.results import record as module
from harness.results.record import Metric, RunRecord, SampleScore, Status, Unit

METRIC: dict[str, Any] = {
    "name": "nll",
    "unit": "nat/token",
    "n": 5,
    "n_of": "token",
    "higher_is_better": False,
}
NOT_FINITE = [math.nan, math.inf, -math.inf]


def test_json_gives_back_the_record_that_went_in() -> None:
    whole = record()
    text = whole.model_dump_json()
    assert RunRecord.model_validate_json(text) == whole
    assert json.loads(text)["created"] == "2026-01-02T03:04:05.000006Z"
    assert json.loads(text)["schema_version"] == 1


def test_fields_keep_their_order_in_json() -> None:
    keys = list(json.loads(record().model_dump_json()))
    assert keys[:5] == ["schema_version", "run_id", "config_hash", "status", "created"]
    assert keys[-3:] == ["provenance", "warnings", "error"]


def test_unknown_field_is_refused_at_every_level() -> None:
    whole = record().model_dump(mode="json")
    places: list[Any] = [
        whole,
        whole["model"],
        whole["quant"],
        whole["quant"]["layers"][0],
        whole["quant"]["skipped"][0],
        whole["task"],
        whole["metrics"][0],
        whole["provenance"],
    ]
    for place in places:
        place["unheard_of"] = 1
        with pytest.raises(ValidationError, match="unheard_of"):
            RunRecord.model_validate(whole)
        del place["unheard_of"]
    RunRecord.model_validate(whole)


def test_every_model_of_the_schema_is_closed_and_frozen() -> None:
    models = [
        item
        for item in vars(module).values()
        if isinstance(item, type) and issubclass(item, BaseModel) and item is not BaseModel
    ]
    assert len(models) >= 9
    for model in models:
        assert model.model_config["extra"] == "forbid", model
        assert model.model_config["frozen"], model


@pytest.mark.parametrize("bad", NOT_FINITE)
def test_numbers_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(ValidationError, match="finite"):
        Metric(**METRIC, value=bad)
    with pytest.raises(ValidationError, match="finite"):
        Metric(**METRIC, value=1.0, ci95=(0.0, bad))
    with pytest.raises(ValidationError, match="finite"):
        SampleScore(id="a", cluster="b", scores={"nll": bad})
    with pytest.raises(ValidationError, match="finite"):
        SampleScore(id="a", cluster="b", scores={}, token_nll=(0.5, bad))
    with pytest.raises(ValidationError, match="finite"):
        record(duration_s=bad)


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity"])
def test_json_with_a_number_that_is_not_finite_is_refused(text: str) -> None:
    good = record().model_dump_json()
    assert good.count("7.0625") == 1
    with pytest.raises(ValidationError, match="metrics"):
        RunRecord.model_validate_json(good.replace("7.0625", text))


@pytest.mark.parametrize("note", [None, ""])
def test_missing_value_needs_a_note(note: str | None) -> None:
    with pytest.raises(ValidationError, match="metric nll must have a value or a note"):
        Metric(**METRIC, value=None, note=note)
    assert Metric(**METRIC, value=None, note="too few windows").value is None


def test_zero_is_a_value() -> None:
    assert Metric(**METRIC, value=0.0).value == 0.0


@pytest.mark.parametrize("field", ["model", "quant", "task"])
def test_status_ok_needs_model_quant_and_task(field: str) -> None:
    with pytest.raises(ValidationError, match="must have model, quant and task"):
        record(**{field: None})


@pytest.mark.parametrize("status", [status for status in Status if status is not Status.OK])
def test_other_statuses_do_without_them(status: Status) -> None:
    whole = record(status=status, model=None, quant=None, task=None, metrics=())
    assert RunRecord.model_validate_json(whole.model_dump_json()) == whole


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_another_schema_version_is_refused(version: object) -> None:
    whole = record().model_dump(mode="json") | {"schema_version": version}
    with pytest.raises(ValidationError, match="schema_version"):
        RunRecord.model_validate_json(json.dumps(whole))


def test_unit_outside_the_list_is_refused() -> None:
    assert Metric(**METRIC, value=1.0).unit is Unit.NAT_PER_TOKEN
    with pytest.raises(ValidationError, match="unit"):
        Metric(**METRIC | {"unit": "nats"}, value=1.0)


def test_metric_is_found_by_its_name() -> None:
    whole = record()
    found = whole.metric("perplexity")
    assert found is not None
    assert found.value == 7.0625
    assert whole.metric("accuracy") is None
