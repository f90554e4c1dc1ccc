"""A run that fails, is interrupted or dies: recorded with its reason, raised, and out of the model again."""

import signal
from dataclasses import dataclass, replace

import pytest
from runs import INT8, PERPLEXITY, MakeSpec, Wrapped, parameters_of, raising, records

from harness import signals
from harness.engines.local.engine import LocalEngine
from harness.errors import (
    AuditError,
    ConfigError,
    DataError,
    HarnessError,
    InvalidResult,
    ModelError,
)
from harness.models import cache
from harness.models.loaded import LoadedModel
from harness.models.sources.tiny import TinyModel
from harness.results.record import Status
from harness.results.store import read
from harness.runner.run import run
from harness.tasks.base import TaskResult


@pytest.mark.parametrize(
    ("reason", "status"),
    [
        (DataError("the text is empty; give another"), Status.ERROR),
        (RuntimeError("CUDA out of memory"), Status.ERROR),
        (InvalidResult("every log-probability must be finite"), Status.INVALID),
        (KeyboardInterrupt(), Status.CANCELLED),
        (signals.Interrupted(signal.SIGTERM), Status.CANCELLED),
    ],
    ids=lambda value: type(value).__name__,
)
def test_failed_task_is_recorded_raised_and_leaves_the_float_weights(
    reason: BaseException, status: Status, make_spec: MakeSpec
) -> None:
    spec = make_spec(INT8, *PERPLEXITY)
    loaded = cache.load(spec.model, spec.device)
    before = parameters_of(loaded.module)
    quantized: list[int] = []

    def fail(engine: LocalEngine) -> None:
        now = parameters_of(engine.loaded.module)
        quantized.append(sum(now[name] is not before[name] for name in before))
        raise reason

    with pytest.raises(type(reason)) as caught:
        run(replace(spec, task=Wrapped(task=spec.task, before=fail)))
    assert caught.value is reason
    assert quantized == [14], "seven matrices in each of two layers"
    after = parameters_of(loaded.module)
    assert after.keys() == before.keys()
    assert all(after[name] is before[name] for name in before)
    [stored] = records(spec)
    assert stored.record.status is status
    assert str(reason) in str(stored.record.error)
    if isinstance(reason, KeyboardInterrupt):
        assert stored.record.error == signals.describe(reason), "one line"
    else:
        assert type(reason).__name__ in str(stored.record.error)
        assert ("Traceback" in str(stored.record.error)) is not isinstance(reason, HarnessError)
    assert stored.record.duration_s is not None
    assert stored.record.metrics == ()
    assert stored.record.samples_file is None


def test_error_of_a_library_that_a_signal_broke_off_is_filed_as_the_signal(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec(*PERPLEXITY)
    came = signals.Interrupted(signal.SIGTERM)
    monkeypatch.setattr(signals, "_received", [came])
    with pytest.raises(RuntimeError):
        run(replace(spec, task=Wrapped(task=spec.task, before=raising(RuntimeError("half")))))
    [stored] = records(spec)
    assert (stored.record.status, stored.record.error) == (Status.CANCELLED, "terminated (SIGTERM)")


def test_record_of_a_process_that_died_is_closed_by_the_next_run(make_spec: MakeSpec) -> None:
    spec = make_spec(*PERPLEXITY)
    first = run(spec)
    running = read(first.path).model_copy(update={"status": Status.RUNNING, "metrics": ()})
    spec.store.write(first.path, running)
    second = run(spec)
    assert not second.skipped
    assert read(first.path).status is Status.ERROR
    assert "without closing the record" in str(read(first.path).error)
    assert read(second.path).status is Status.OK


def test_model_that_cannot_be_loaded_is_recorded(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args: object) -> LoadedModel:
        raise ModelError("weights are damaged; fetch them again")

    spec = make_spec(*PERPLEXITY)
    monkeypatch.setattr(TinyModel, "load", refuse)
    with pytest.raises(ModelError):
        run(spec)
    [stored] = records(spec)
    assert stored.record.status is Status.ERROR
    assert stored.record.error == "ModelError: weights are damaged; fetch them again"


def test_recipe_that_matches_nothing_is_recorded(make_spec: MakeSpec) -> None:
    spec = make_spec(INT8, "quant.rules.linear.match=nowhere.*", *PERPLEXITY)
    with pytest.raises(HarnessError, match="nowhere"):
        run(spec)
    [stored] = records(spec)
    assert stored.record.status is Status.ERROR
    assert "nowhere" in str(stored.record.error)
    assert stored.record.recipe == "int8_row"


def test_parity_without_a_recipe_is_a_mistake_on_a_float_model(make_spec: MakeSpec) -> None:
    with pytest.raises(ConfigError, match="quant must be a recipe of a real backend"):
        run(make_spec("task=parity"))


def test_weight_taken_out_while_it_is_measured_fails_the_run(make_spec: MakeSpec) -> None:
    def take_out(engine: LocalEngine) -> None:
        swap = engine.loaded.swaps[0]
        setattr(swap.owner, swap.attribute, swap.original)

    spec = make_spec(INT8, *PERPLEXITY)
    with pytest.raises(AuditError, match="got 1 of them replaced"):
        run(replace(spec, task=Wrapped(task=spec.task, before=take_out)))
    [stored] = records(spec)
    assert stored.record.status is Status.ERROR


def test_result_that_cannot_be_filed_does_not_leave_the_record_running(make_spec: MakeSpec) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Malformed(Wrapped):
        def run(self, engine: LocalEngine) -> TaskResult:
            result = super().run(engine)
            info = result.info.model_copy(update={"version": "not a number"})
            return replace(result, info=info)

    spec = make_spec(*PERPLEXITY)
    with pytest.raises(Exception, match="version"):
        run(replace(spec, task=Malformed(task=spec.task)))
    [stored] = records(spec)
    assert stored.record.status is Status.ERROR
    assert "version" in str(stored.record.error)
