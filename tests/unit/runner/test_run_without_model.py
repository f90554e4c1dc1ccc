"""A run of a task that needs no model: none is loaded, none is asked for, and none is in the record."""

import pytest
from pydantic import ValidationError
from runs import MakeSpec

from harness.errors import ConfigError
from harness.models import cache
from harness.models.sources.tiny import TinyModel
from harness.results.record import RunRecord, Status
from harness.results.store import read, read_samples
from harness.runner.run import run

SMALL = ("task=matmul", "task.shapes=[[2,16]]", "task.draws=2")


@pytest.fixture(autouse=True)
def _model_is_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "load", lambda *_: pytest.fail("a model was loaded"))
    monkeypatch.setattr(TinyModel, "fingerprint", lambda _: pytest.fail("a model was looked for"))


def test_record_is_whole_without_model_and_recipe(make_spec: MakeSpec) -> None:
    outcome = run(make_spec(*SMALL))
    record = read(outcome.path)
    assert outcome.path.parts[-3:-1] == ("matmul", "no_model")
    assert record.status is Status.OK
    assert (record.model, record.quant) == (None, None)
    assert record.config["model"] is None
    assert record.provenance.seeds == {"task.seed": 42}
    assert outcome.headline == record.metric("rel_error/both/normal/2x16/int8_tensor")
    [stored] = make_spec(*SMALL).store.load()[0]
    assert len(read_samples(stored)) == 3 * 2


def test_same_task_is_on_file_whatever_model_and_data_are_configured(make_spec: MakeSpec) -> None:
    first = run(make_spec(*SMALL))
    again = run(make_spec(*SMALL, "model=smollm2_135m", "data=hub"))
    other = run(make_spec(*SMALL, "task.seed=1"))
    assert (first.skipped, again.skipped, other.skipped) == (False, True, False)
    assert again.path == first.path


def test_numbers_of_another_generator_are_no_reason_to_skip(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec(*SMALL)
    assert not run(spec).skipped
    facts = {"name": "random matrices", "probe_sha256": "another"}
    monkeypatch.setattr(type(spec.task), "data_facts", lambda _: facts)
    assert not run(spec).skipped


def test_recipe_is_refused_and_the_float_baseline_is_not(make_spec: MakeSpec) -> None:
    with pytest.raises(ConfigError, match=r"quant must be none for matmul.*got int8_row"):
        make_spec(*SMALL, "+quant=int8_row")
    make_spec(*SMALL, "+quant=none")


def test_format_can_be_added_on_the_command_line(make_spec: MakeSpec) -> None:
    spec = make_spec(*SMALL, "+format@task.formats.mx=mxfp8", "task.ratios=[[mx,int8_row]]")
    record = read(run(spec).path)
    assert record.task is not None
    assert record.task.data["formats"]["mx"] == "mxfp8_e4m3fn_g32"
    ratio = record.metric("ratio/rel_error/both/normal/2x16/mx/int8_row")
    assert ratio is not None
    assert ratio.value is not None


@pytest.mark.parametrize("part", ["model", "quant"])
def test_record_of_a_task_that_needs_a_model_is_not_whole_without(
    make_spec: MakeSpec, part: str
) -> None:
    whole = read(run(make_spec(*SMALL)).path).model_dump(mode="json")
    whole["task"]["needs_model"] = True
    with pytest.raises(ValidationError, match="must have model, quant and task"):
        RunRecord.model_validate(whole)
