"""What is on file is not measured again, and what is not quite the same is."""

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from data_folder import DataFolder
from runs import INT8, MMLU, PERPLEXITY, MakeSpec, Wrapped, metrics, raising, records

from harness.claims.grouping import finished
from harness.data import text_file
from harness.data.embedded import EmbeddedData
from harness.data.source import QuestionSet, Text
from harness.errors import DataError, InvalidResult
from harness.machine import provenance
from harness.models import cache
from harness.models.sources.tiny import TinyModel
from harness.results.record import Hardware, RunRecord, Status
from harness.results.store import ResultStore, read
from harness.runner.on_file import is_of_recipe
from harness.runner.run import Outcome, run
from harness.runner.spec import RunSpec


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
        monkeypatch.undo()  # the other process runs while this one waits for the hold
        others.append(run(spec))
        yield

    monkeypatch.setattr(ResultStore, "hold", claimed)
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


def test_torn_record_does_not_count(make_spec: MakeSpec) -> None:
    spec = make_spec(*PERPLEXITY)
    first = run(spec)
    content = first.path.read_bytes()
    first.path.write_bytes(content[: len(content) // 2])
    second = run(spec)
    assert not second.skipped
    assert read(second.path).status is Status.OK


def test_latest_run_is_the_one_filed_last_whatever_the_clock_says(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = replace(make_spec(*PERPLEXITY), force=True)
    paths = []
    for year in (2030, 2020, 2025):
        clock = type(
            "Clock", (datetime,), {"now": lambda zone, y=year: datetime(y, 1, 1, tzinfo=zone)}
        )
        monkeypatch.setattr("harness.runner.run.datetime", clock)
        paths.append(run(spec).path)
    filed = records(spec)
    assert [item.path for item in filed] == paths
    assert [item.record.attempt for item in filed] == [1, 2, 3]
    [latest] = finished(filed)
    assert latest.path == paths[-1]
    assert run(replace(spec, force=False)).path == paths[-1]


# The calibration text is part of a run's identity.

HUB = "data=hub"
STATIC = (
    "+quant=w8a8_static",
    "quant.calibration.num_sequences=2",
    "quant.calibration.length=24",
    "task.window=32",
    "task.limit_windows=2",
)


def calibrated(spec: RunSpec) -> tuple[bool, RunRecord]:
    """Run, and return whether it was on file, and the record."""
    outcome = run(spec)
    return outcome.skipped, read(outcome.path)


def test_another_text_under_the_same_configuration_is_measured_and_kept_beside_the_first(
    make_spec: MakeSpec, data: DataFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARNESS_DATA", str(data.root))
    monkeypatch.setattr("harness.data.hub.HubData.__hash__", object.__hash__)  # no cached reading
    skipped, examples = calibrated(make_spec(HUB, *STATIC))
    assert not skipped
    assert calibrated(make_spec(HUB, *STATIC))[0]
    data.wikitext("train", *(f"Quite another text, {n} times {n * n}." for n in range(40)))
    skipped, training = calibrated(make_spec(HUB, *STATIC))
    assert not skipped
    assert examples.config_hash == training.config_hash
    assert examples.metrics[0].value != training.metrics[0].value
    rows = [f"Solved {n}?\nA. a\nB. b\nC. c\nD. d\nAnswer: C" for n in range(9)]
    for record, name, text in (
        (examples, "examples of mmlu/test", "\n\n".join(rows)),
        (
            training,
            "wikitext2-raw-v1/train",
            "\n\n".join(f"Quite another text, {n} times {n * n}." for n in range(40)),
        ),
    ):
        assert record.quant is not None
        found = record.quant.calibration
        assert found is not None
        assert (found.text, found.sha256) == (name, sha256(text.encode()).hexdigest())
        assert (found.num_sequences, found.length, found.seed) == (2, 24, 0)
    # Both are on file, each for its own text.
    assert calibrated(make_spec(HUB, *STATIC)) == (True, training)
    (data.root / "Salesforce/wikitext/wikitext-2-raw-v1/train-00000-of-00001.parquet").unlink()
    assert calibrated(make_spec(HUB, *STATIC)) == (True, examples)


def test_record_that_does_not_name_its_text_is_measured_again(
    make_spec: MakeSpec, data: DataFolder
) -> None:
    spec = make_spec(HUB, *STATIC, f"data.path={data.root}")
    outcome = run(spec)
    record = read(outcome.path)
    assert record.quant is not None
    older = record.quant.model_copy(update={"calibration": None})
    spec.store.write(outcome.path, record.model_copy(update={"quant": older}))
    assert not run(spec).skipped
    assert run(spec).skipped


def test_recipe_without_calibration_names_no_text_and_stays_on_file(
    make_spec: MakeSpec, data: DataFolder
) -> None:
    for words in ((), ("+quant=int8_row",)):
        spec = make_spec(HUB, *words, "task.window=32", f"data.path={data.root}")
        _, record = calibrated(spec)
        assert record.quant is not None
        assert record.quant.calibration is None
        assert run(spec).skipped


def test_record_under_another_name_or_another_order_of_rules_is_not_of_the_recipe(
    make_spec: MakeSpec, data: DataFolder
) -> None:
    rule = (
        "+quant.rules.second={_target_: harness.recipe.LayerRule, match: '*.mlp.*', weight: "
        "{_target_: harness.quant.Unscaled, element: {_target_: harness.formats.Native, name: "
        "bf16}}}"
    )
    words = ("quant.rules.linear.match='*self_attn*'", rule, "task.window=32")
    spec = make_spec(HUB, "+quant=int8_row", *words, f"data.path={data.root}")
    _, record = calibrated(spec)
    assert run(spec).skipped
    assert is_of_recipe(record, spec.recipe, None)
    renamed = replace(spec.recipe, name="int8_row (second=..)")
    assert not is_of_recipe(record, renamed, None)
    turned = replace(spec.recipe, rules=dict(reversed(spec.recipe.rules.items())))
    assert not is_of_recipe(record, turned, None)
    assert not run(replace(spec, recipe=turned)).skipped
