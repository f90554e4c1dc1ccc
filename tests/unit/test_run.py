"""A run: measured once, filed whatever happens, and without a trace in the model."""

import errno
import json
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import nn

from harness import config, provenance, signals
from harness.config import CONF
from harness.data import text_file
from harness.data.embedded import EmbeddedData
from harness.data.source import QuestionSet, Text
from harness.errors import (
    AuditError,
    ConfigError,
    DataError,
    HarnessError,
    InvalidResult,
    ModelError,
    OutputError,
    ResultError,
)
from harness.models import cache
from harness.models.source import LoadedModel
from harness.models.tiny import TinyModel
from harness.report.study import finished
from harness.results.record import Hardware, Metric, RunRecord, Status, Unit
from harness.results.store import ResultStore, Stored, read, read_samples
from harness.run import Outcome, RunSpec, run
from harness.tasks.base import Task, TaskResult

MakeSpec = Callable[..., RunSpec]
PERPLEXITY = ("task=perplexity", "task.window=64", "task.limit_windows=12")
MMLU = ("task=mmlu", "task.limit=4")
INT8 = "+quant=int8_row"


@pytest.fixture(autouse=True)
def _no_model_held() -> Iterator[None]:
    cache._held.clear()
    yield
    cache._held.clear()


@pytest.fixture
def make_spec(tmp_path: Path) -> MakeSpec:
    """Return a function that builds what a command line asks for, on the tiny model."""

    def make(*overrides: str, results: str = "results") -> RunSpec:
        config.register()
        common = ["model=tiny", "data=embedded", "device=cpu", f"results_dir={tmp_path / results}"]
        with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
            composed = compose("config", overrides=[*common, *overrides])
        return RunSpec.build(config.resolve(composed))

    return make


@dataclass(frozen=True, kw_only=True)
class Wrapped:
    """A task with something done before it, and facts of its own about the data."""

    task: Task
    before: Callable[[LoadedModel], None] = lambda _loaded: None
    facts: Mapping[str, Any] | None = None
    version: int = 1
    needs_trained_weights: bool = True
    is_timed: bool = False

    @property
    def name(self) -> str:
        return self.task.name

    @property
    def seeds(self) -> Mapping[str, int]:
        return self.task.seeds

    def data_facts(self) -> dict[str, Any]:
        return {**self.task.data_facts(), **(self.facts or {})}

    def run(self, loaded: LoadedModel) -> TaskResult:
        self.before(loaded)
        return self.task.run(loaded)


def raising(reason: BaseException) -> Callable[[LoadedModel], None]:
    def before(_loaded: LoadedModel) -> None:
        raise reason

    return before


def parameters_of(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return every parameter by its path, shared ones once for each."""
    return dict(module.named_parameters(remove_duplicate=False))


def records(spec: RunSpec) -> list[Stored]:
    stored, problems = spec.store.load()
    assert problems == []
    return stored


def metrics(path: Path) -> dict[str, Any]:
    return {metric.name: metric.model_dump() for metric in read(path).metrics}


# What is filed


@pytest.mark.parametrize("overrides", [PERPLEXITY, MMLU], ids=["perplexity", "mmlu"])
def test_run_files_a_whole_record_and_its_samples(
    overrides: tuple[str, ...], make_spec: MakeSpec, tiny: LoadedModel
) -> None:
    spec = make_spec(INT8, *overrides)
    outcome = run(spec)
    [stored] = records(spec)
    record = stored.record
    assert outcome.path == stored.path
    assert outcome.path.parent == spec.store.root / spec.task.name / "tiny"
    assert outcome.path.name == f"int8_row--{record.run_id}.json"
    assert record.status is Status.OK
    assert record.error is None
    assert record.config_hash == config.config_hash(spec.resolved, "cpu")
    assert record.config == spec.resolved
    assert record.duration_s is not None
    assert record.duration_s > 0
    assert record.peak_memory is not None
    assert record.peak_memory.device_bytes is None
    assert record.model is not None
    assert record.model.num_parameters == tiny.num_parameters
    assert record.model.float_bytes == 4 * tiny.num_parameters
    assert record.model.fingerprint == "tiny-v1-seed0"
    assert record.quant is not None
    assert (record.quant.name, record.quant.kind) == ("int8_row", "fake-quant")
    assert record.task is not None
    assert record.task.data.items() >= spec.task.data_facts().items()
    assert outcome.headline == record.metrics[0]
    assert outcome.headline is not None
    frame = read_samples(stored)
    assert len(frame) == (12 if spec.task.name == "perplexity" else 4)
    assert frame["id"].is_unique


def test_outcome_says_what_ran_and_what_came_out(make_spec: MakeSpec) -> None:
    outcome = run(make_spec(INT8, *PERPLEXITY))
    summary = outcome.summary()
    metric = metrics(outcome.path)["perplexity"]
    assert outcome.label == "int8_row perplexity"
    assert metric["ci95"] is None, "three documents are too few"
    why = metric["note"].split(";")[0]
    assert why.startswith("no interval from 3 documents")
    expected = f"perplexity {metric['value']:.4f}, n = {12 * 63} tokens ({why}); done"
    assert summary == expected


def test_record_says_running_while_the_task_runs(make_spec: MakeSpec) -> None:
    spec = make_spec(*PERPLEXITY)
    seen: list[RunRecord] = []

    def look(_loaded: LoadedModel) -> None:
        seen.extend(stored.record for stored in records(spec))

    run(replace(spec, task=Wrapped(task=spec.task, before=look)))
    [during] = seen
    [after] = records(spec)
    assert during.status is Status.RUNNING
    assert during.metrics == ()
    assert after.record.status is Status.OK
    assert after.record.run_id == during.run_id
    assert after.record.created == during.created


# What is on file is not measured again


def test_second_run_is_skipped(make_spec: MakeSpec) -> None:
    spec = make_spec(INT8, *PERPLEXITY)
    first = run(spec)
    content = first.path.read_bytes()
    second = run(spec)
    assert (first.skipped, second.skipped) == (False, True)
    assert second.path == first.path
    assert second.headline == first.headline
    assert "already on file, skipped (force=true repeats it)" in second.summary()
    assert first.path.read_bytes() == content
    assert len(records(spec)) == 1


def test_skipping_loads_no_model(make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = make_spec(*PERPLEXITY)
    run(spec)
    monkeypatch.setattr(cache, "load", lambda *_: pytest.fail("the model was loaded"))
    assert run(spec).skipped


def test_what_is_on_file_is_found_where_nothing_can_be_written(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec(*PERPLEXITY)
    first = run(spec)
    read_only = OSError(errno.EROFS, os.strerror(errno.EROFS))
    for writes in ("mkdir", "touch"):
        monkeypatch.setattr(Path, writes, raising(read_only))
    monkeypatch.setattr(os, "open", raising(read_only))
    second = run(spec)
    assert (second.skipped, second.path) == (True, first.path)


def test_run_that_another_process_ended_in_the_meantime_is_not_repeated(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec(*PERPLEXITY)
    others: list[Outcome] = []

    @contextmanager
    def claimed(_store: ResultStore, _hash: str) -> Iterator[None]:
        monkeypatch.undo()  # the other process runs while this one waits for the claim
        others.append(run(spec))
        yield

    monkeypatch.setattr(ResultStore, "claim", claimed)
    outcome = run(spec)
    assert [other.skipped for other in others] == [False]
    assert (outcome.skipped, outcome.path) == (True, others[0].path)


HERE = provenance.hardware(torch.device("cpu"))
ELSEWHERE = {
    "processor": HERE._replace(cpu="another processor"),
    "threads": HERE._replace(threads=HERE.threads + 1),
    "GPU": HERE._replace(gpu="a GPU"),
}


@pytest.mark.parametrize("hardware", ELSEWHERE.values(), ids=ELSEWHERE.keys())
def test_speed_is_on_file_for_its_machine_alone(
    hardware: Hardware, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec(*PERPLEXITY)
    timed = Wrapped(task=spec.task, version=spec.task.version, is_timed=True)
    spec = replace(spec, task=timed)
    with monkeypatch.context() as there:
        there.setattr(provenance, "hardware", lambda _device: hardware)
        first = run(spec)
    second = run(spec)
    assert not second.skipped
    assert run(spec).path == second.path
    with monkeypatch.context() as there:
        there.setattr(provenance, "hardware", lambda _device: hardware)
        assert run(spec).path == first.path
    filed = {item.path: item.record.provenance.hardware for item in records(spec)}
    assert filed == {first.path: hardware, second.path: HERE}


def test_quality_is_on_file_for_every_machine(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec(*PERPLEXITY)
    run(spec)
    monkeypatch.setattr(provenance, "hardware", lambda _device: ELSEWHERE["processor"])
    assert run(spec).skipped


def test_force_measures_again_beside_the_old_record(make_spec: MakeSpec) -> None:
    first = run(make_spec(*PERPLEXITY))
    second = run(make_spec("force=true", *PERPLEXITY))
    assert not second.skipped
    assert second.path != first.path
    assert first.path.is_file()
    assert metrics(second.path) == metrics(first.path)
    third = run(make_spec(*PERPLEXITY))
    assert third.skipped
    assert third.path == second.path, "the latest of several"


def test_other_configuration_is_not_skipped(make_spec: MakeSpec) -> None:
    specs = [
        make_spec(*PERPLEXITY),
        make_spec(INT8, *PERPLEXITY),
        make_spec(*PERPLEXITY[:2], "task.limit_windows=11"),
        make_spec(*MMLU),
    ]
    assert [run(spec).skipped for spec in specs] == [False] * 4
    assert len(records(specs[0])) == 4


@dataclass(frozen=True, kw_only=True)
class ChangedData:
    """The embedded data after an update that changed its words."""

    def text(self) -> Text:
        text = EmbeddedData().text()
        return replace(text, text=f"!{text.text[1:]}", sha256="1" * 64)

    def questions(self) -> QuestionSet:
        data = EmbeddedData().questions()
        asked = tuple(replace(q, question=f"{q.question}!") for q in data.questions)
        return replace(data, questions=asked)


@pytest.mark.parametrize("overrides", [PERPLEXITY, MMLU], ids=["perplexity", "mmlu"])
def test_changed_data_is_measured_again(overrides: tuple[str, ...], make_spec: MakeSpec) -> None:
    spec = make_spec(*overrides)
    assert not run(spec).skipped
    task: Any = spec.task
    changed = replace(spec, task=replace(task, data=ChangedData()))
    assert not run(changed).skipped
    assert run(changed).skipped
    assert run(spec).skipped


@pytest.mark.parametrize(
    "task",
    [
        ("task=perplexity_documents", "task.window=32"),
        ("task=perplexity", "task.window=16"),
        ("task=divergence", "task.window=16", "task.limit_windows=2"),
        ("task=noise_floor", "task.window=16", "task.limit_windows=2"),
        ("task=parity", "task.window=16", "task.limit_windows=1", "+quant=int8_row_real"),
    ],
    ids=lambda task: task[0].removeprefix("task="),
)
def test_rows_cut_elsewhere_in_the_same_text_are_measured_again(
    task: tuple[str, ...], make_spec: MakeSpec, tmp_path: Path
) -> None:
    parts = [f"Part {number} of a text that {number} people read." for number in range(4)]
    file = tmp_path / "own.jsonl"

    def rows_of(*rows: str) -> Outcome:
        file.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
        text_file._read.cache_clear()
        return run(make_spec("data=text", f"data.path={file}", *task))

    first = "\n\n".join(parts[:2])
    assert not rows_of(first, *parts[2:]).skipped
    assert not rows_of(parts[0], "\n\n".join(parts[1:3]), parts[3]).skipped
    assert rows_of(first, *parts[2:]).skipped


def test_changed_weights_are_measured_again(make_spec: MakeSpec) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Updated(TinyModel):
        def fingerprint(self) -> str:
            return "updated"

    spec = make_spec(*PERPLEXITY)
    assert not run(spec).skipped
    assert not run(replace(spec, model=Updated())).skipped
    assert run(replace(spec, model=Updated())).skipped


def test_newer_version_of_the_task_is_measured_again(make_spec: MakeSpec) -> None:
    spec = make_spec(*PERPLEXITY)
    run(spec)
    now = spec.task.version
    assert run(replace(spec, task=Wrapped(task=spec.task, version=now))).skipped
    assert not run(replace(spec, task=Wrapped(task=spec.task, version=now + 1))).skipped
    assert not run(replace(spec, task=Wrapped(task=spec.task, version=now - 1))).skipped


@pytest.mark.parametrize(
    "reason",
    [DataError("no text"), InvalidResult("NaN"), KeyboardInterrupt()],
    ids=lambda r: repr(r),
)
def test_run_that_did_not_end_well_is_measured_again(
    reason: BaseException, make_spec: MakeSpec
) -> None:
    spec = make_spec(*PERPLEXITY)
    with pytest.raises(type(reason)):
        run(replace(spec, task=Wrapped(task=spec.task, before=raising(reason))))
    outcome = run(spec)
    assert not outcome.skipped
    assert read(outcome.path).status is Status.OK


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


def test_latest_run_is_the_one_filed_last_whatever_the_clock_says(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = replace(make_spec(*PERPLEXITY), force=True)
    paths = []
    for year in (2030, 2020, 2025):
        clock = type(
            "Clock", (datetime,), {"now": lambda zone, y=year: datetime(y, 1, 1, tzinfo=zone)}
        )
        monkeypatch.setattr("harness.run.datetime", clock)
        paths.append(run(spec).path)
    filed = records(spec)
    assert [item.path for item in filed] == paths
    assert [item.record.attempt for item in filed] == [1, 2, 3]
    [latest] = finished(filed)
    assert latest.path == paths[-1]
    assert run(replace(spec, force=False)).path == paths[-1]


def test_torn_record_does_not_count(make_spec: MakeSpec) -> None:
    spec = make_spec(*PERPLEXITY)
    first = run(spec)
    content = first.path.read_bytes()
    first.path.write_bytes(content[: len(content) // 2])
    second = run(spec)
    assert not second.skipped
    assert read(second.path).status is Status.OK


# What goes wrong


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

    def fail(model: LoadedModel) -> None:
        now = parameters_of(model.module)
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


def test_weight_taken_out_while_it_is_measured_fails_the_run(make_spec: MakeSpec) -> None:
    def take_out(loaded: LoadedModel) -> None:
        swap = loaded.swaps[0]
        setattr(swap.owner, swap.attribute, swap.original)

    spec = make_spec(INT8, *PERPLEXITY)
    with pytest.raises(AuditError, match="got 1 of them replaced"):
        run(replace(spec, task=Wrapped(task=spec.task, before=take_out)))
    [stored] = records(spec)
    assert stored.record.status is Status.ERROR


def test_disk_that_fills_up_before_the_samples_is_recorded(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args: object) -> tuple[str, str]:
        raise ResultError("disk full")

    spec = make_spec(*PERPLEXITY)
    monkeypatch.setattr(ResultStore, "write_samples", refuse)
    with pytest.raises(ResultError, match="disk full"):
        run(spec)
    [stored] = records(spec)
    assert stored.record.status is Status.ERROR


def test_full_disk_is_noticed_before_the_model_is_loaded(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    spec = make_spec(*PERPLEXITY)
    monkeypatch.setattr(cache, "load", lambda *_: pytest.fail("the model was loaded"))
    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OutputError, match=r"results_dir must be .*No space left.*free some space"):
        run(spec)
    assert list(spec.store.root.rglob("*.json")) == []


@pytest.mark.parametrize("number", [1, 2], ids=["samples", "record"])
def test_result_that_meets_a_full_disk_is_told_and_leaves_whole_files(
    number: int,
    make_spec: MakeSpec,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    expected = run(make_spec(*PERPLEXITY, results="elsewhere")).headline
    spec, replace_file, written = make_spec(*PERPLEXITY), Path.replace, 0

    def fill(_loaded: LoadedModel) -> None:
        monkeypatch.setattr(Path, "replace", full)

    def full(self: Path, target: Path) -> Path:
        nonlocal written
        written += 1
        if written >= number:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return replace_file(self, target)

    with pytest.raises(OutputError, match=r"results_dir must be .*No space left.*free some space"):
        run(replace(spec, task=Wrapped(task=spec.task, before=fill)))
    assert expected is not None
    assert f"measured, but not on file: perplexity {expected.value:.4f}, n = " in caplog.text
    [left] = records(spec)
    assert left.record.status is Status.RUNNING, "the old record is whole"
    assert list(spec.store.root.rglob(".writing-*")) == []
    monkeypatch.setattr(Path, "replace", replace_file)
    assert not run(spec).skipped
    assert [item.record.status for item in records(spec)] == [Status.ERROR, Status.OK]


def test_ctrl_c_on_a_full_disk_is_still_ctrl_c(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    spec = make_spec(*PERPLEXITY)

    def interrupt(_loaded: LoadedModel) -> None:
        def full(_descriptor: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "fsync", full)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(replace(spec, task=Wrapped(task=spec.task, before=interrupt)))
    assert "No space left on device" in caplog.text


@pytest.mark.parametrize(
    ("folder", "said"),
    [
        ("", "results_dir must name a place to write, got ''"),
        ("s3://bucket/x", "results_dir must be a path on this machine, got the address s3://"),
        ("/proc/x", "got /proc/x, which belongs to the operating system"),
        ("/dev/null", "got /dev/null, which belongs to the operating system"),
        ("file", "results_dir must be a folder that can be written, got file, which is a file"),
        ("file/below", "got file/below: Not a directory"),
        (
            "pipe",
            "results_dir must be a folder that can be written, got pipe, which is a named pipe",
        ),
        ("nowhere", "which is a link to nothing"),
        ("n" * 300, "File name too long"),
        ("new/" + "n" * 300, "File name too long"),
    ],
)
def test_folder_that_cannot_hold_records_is_refused_before_a_model_is_loaded(
    folder: str, said: str, make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    os.mkfifo("pipe")
    Path("nowhere").symlink_to("missing")
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(cache, "load", lambda *_: pytest.fail("the model was loaded"))
    resolved = {**make_spec(*PERPLEXITY).resolved, "results_dir": folder}
    with pytest.raises(OutputError) as refused:
        run(RunSpec.build(resolved))
    assert said in str(refused.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_results_lie_in_the_home_that_a_tilde_names(
    make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    spec = RunSpec.build({**make_spec(*PERPLEXITY).resolved, "results_dir": "~/results"})
    assert spec.store.root == tmp_path / "me" / "results"


def test_result_that_cannot_be_filed_does_not_leave_the_record_running(make_spec: MakeSpec) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Malformed(Wrapped):
        def run(self, loaded: LoadedModel) -> TaskResult:
            result = super().run(loaded)
            info = result.info.model_copy(update={"version": "not a number"})
            return replace(result, info=info)

    spec = make_spec(*PERPLEXITY)
    with pytest.raises(Exception, match="version"):
        run(replace(spec, task=Malformed(task=spec.task)))
    [stored] = records(spec)
    assert stored.record.status is Status.ERROR
    assert "version" in str(stored.record.error)


# What is left behind in the model


def test_quantized_weights_do_not_leak_into_the_next_baseline(make_spec: MakeSpec) -> None:
    fresh = run(make_spec("+quant=none", *PERPLEXITY, results="fresh"))
    cache._held.clear()
    quantized = run(make_spec(INT8, *PERPLEXITY))
    held = cache.load(TinyModel(), make_spec().device)
    again = run(make_spec("+quant=none", *PERPLEXITY))
    assert cache.load(TinyModel(), make_spec().device) is held, "one load serves a sweep"
    assert metrics(quantized.path) != metrics(fresh.path)
    assert metrics(again.path) == metrics(fresh.path)
    hashes = [read(outcome.path).samples_sha256 for outcome in (fresh, again, quantized)]
    assert hashes[0] == hashes[1] != hashes[2]


def test_order_of_the_recipes_does_not_matter(make_spec: MakeSpec) -> None:
    recipes = ["int8_row", "fp8_tensor", "int8_tensor"]
    one_way = {r: metrics(run(make_spec(f"+quant={r}", *PERPLEXITY)).path) for r in recipes}
    other_way = {
        r: metrics(run(make_spec(f"+quant={r}", *PERPLEXITY, results="other")).path)
        for r in reversed(recipes)
    }
    assert one_way == other_way
    values = [found["perplexity"]["value"] for found in one_way.values()]
    assert len(set(values)) == len(recipes)


def test_float_weights_are_the_same_objects_after_a_good_run(make_spec: MakeSpec) -> None:
    spec = make_spec(INT8, *MMLU)
    loaded = cache.load(spec.model, spec.device)
    before = parameters_of(loaded.module)
    tied = loaded.module.config.tie_word_embeddings
    run(spec)
    after = parameters_of(loaded.module)
    assert all(after[name] is before[name] for name in before)
    assert loaded.module.config.tie_word_embeddings is tied


def test_runs_are_named_after_hash_and_start(make_spec: MakeSpec) -> None:
    record = read(run(make_spec(*PERPLEXITY)).path)
    assert record.run_id.startswith(f"{record.config_hash[:12]}-{record.created:%Y%m%dT%H%M%S}")
    assert record.created.utcoffset() is not None
    assert record.command == provenance.command_line()
    assert json.loads(record.model_dump_json())["created"].endswith("Z")


def test_parity_without_a_recipe_is_a_mistake_on_a_float_model(make_spec: MakeSpec) -> None:
    with pytest.raises(ConfigError, match="quant must be a recipe of a real backend"):
        run(make_spec("task=parity"))


def test_a_headline_without_an_interval_says_why() -> None:
    metric = Metric(
        name="perplexity",
        value=20.0,
        unit=Unit.ONE,
        n=4094,
        n_of="token",
        higher_is_better=False,
        note="first; no interval from 2 documents, worth 1.8 of equal size; it takes 5",
    )
    outcome = Outcome(label="a", skipped=False, path=Path("x"), headline=metric)
    assert outcome.summary() == (
        "perplexity 20.0000, n = 4094 tokens (no interval from 2 documents, worth 1.8 of equal size); done"
    )
    one = replace(outcome, headline=metric.model_copy(update={"n": 1, "note": None}))
    assert one.summary() == "perplexity 20.0000, n = 1 token; done"
