"""What a run says before it starts, and what a plan of it says, on records of the tiny model."""

import json
import logging
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from runs import INT8, MakeSpec, raising, records

from harness.errors import ConfigError
from harness.plan.expected import Expected, assumed_flips
from harness.plan.on_file import Timed
from harness.plan.sentences import page
from harness.results.record import Hardware, Status
from harness.runner import planned
from harness.runner.planned import before, plan
from harness.runner.probe import Probed
from harness.runner.run import run
from harness.runner.spec import RunSpec

MMLU = ("task=mmlu", "task.shots=0", "task.limit=12")
TEXT = ("task=perplexity", "task.window=64", "task.limit_windows=40")
DIVERGENCE = ("task=divergence", "task.window=64", "task.limit_windows=40")


@pytest.fixture
def no_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planned, "probe", lambda *_: pytest.fail("the task was run"))


def visible(expected: Expected, num: int) -> float:
    found = expected.visible(num)
    assert found is not None
    return found


# Before a run


def test_the_first_run_says_what_it_will_show_if_5_percent_flip(
    make_spec: MakeSpec, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="harness")
    spec = make_spec(*MMLU)
    everything = make_spec(*MMLU[:2]).task.data_facts()
    run(spec)
    shown = 100 * visible(assumed_flips(0.05, everything["num_subjects"]), 12)
    said = f"12 questions can show a difference of {shown:.3g} pp or more"
    assert caplog.messages[0] == f"{said} (assuming that 5 % of the answers flip)"


def no_samples(record: dict[str, Any]) -> None:
    for metric in record["metrics"]:
        metric["n"] = 0


def no_options(record: dict[str, Any]) -> None:
    record["config"]["task"] = "edited"


def no_number(record: dict[str, Any]) -> None:
    record["task"]["data"]["num_windows"] = "many"


@pytest.mark.parametrize("harm", [no_samples, no_options, no_number])
def test_a_record_that_somebody_has_edited_breaks_no_later_run(
    make_spec: MakeSpec, harm: Callable[[dict[str, Any]], None]
) -> None:
    path = run(make_spec(*TEXT)).stored.path
    record = json.loads(path.read_text(encoding="utf-8"))
    harm(record)
    path.write_text(json.dumps(record), encoding="utf-8")
    # A recipe asks for the time, for the size of the text and for the baseline.
    found = run(make_spec(*TEXT[:2], "task.limit_windows=41", INT8))
    assert found.stored.record.status is Status.OK


def test_a_signal_during_the_estimate_closes_the_record(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planned, "before", raising(KeyboardInterrupt()))
    spec = make_spec(*TEXT)
    with pytest.raises(KeyboardInterrupt):
        run(spec)
    assert [item.record.status for item in records(spec)] == [Status.CANCELLED]


def test_later_runs_say_what_runs_on_file_show_and_how_long_the_last_took(
    make_spec: MakeSpec,
) -> None:
    run(make_spec(*MMLU))
    run(make_spec(*MMLU, INT8))
    spec = make_spec(*MMLU, INT8, "task.limit=13")
    said = before(spec)
    assert said is not None
    assert " of 12 answers flipped between int8_row and baseline)" in said
    assert "; about " in said
    assert said.endswith("s, as the last run on file (int8_row, 12 questions)")
    other = before(make_spec(*MMLU, "+quant=int4_g64"))
    assert other is not None
    assert "assuming that 5 % of the answers flip" in other, "one recipe says nothing of another"


def test_a_text_says_nothing_before_its_first_run_and_its_difference_after_a_pair(
    make_spec: MakeSpec,
) -> None:
    assert before(make_spec(*TEXT)) is None
    run(make_spec(*TEXT))
    said = before(make_spec(*TEXT, INT8))
    assert said is not None
    assert said.startswith("about "), "no pair yet, a time only"
    run(make_spec(*TEXT, INT8))
    said = before(make_spec(*TEXT, INT8, "force=true"))
    assert said is not None
    assert "(on file: int8_row and baseline over 2,520 tokens)" in said


def test_a_divergence_is_planned_from_its_own_runs(make_spec: MakeSpec) -> None:
    for recipe in ((), (INT8,)):
        run(make_spec(*DIVERGENCE, *recipe))
    said = before(make_spec(*DIVERGENCE, INT8))
    assert said is not None
    assert " nat/token or more (on file: int8_row and baseline over 2,520 tokens); " in said


def test_two_rules_of_answers_are_planned_by_the_first(make_spec: MakeSpec) -> None:
    both = (*MMLU, "task.answers=[direct,generate]")
    for recipe in ((), (INT8,)):
        run(make_spec(*both, *recipe))
    said = before(make_spec(*both, INT8))
    assert said is not None
    assert " of 12 answers flipped between int8_row and baseline)" in said
    assert "as the last run on file (int8_row, 12 questions)" in said


def test_a_skipped_run_says_nothing(make_spec: MakeSpec, caplog: pytest.LogCaptureFixture) -> None:
    run(make_spec(*MMLU))
    caplog.clear()
    caplog.set_level(logging.INFO, logger="harness")
    run(make_spec(*MMLU))
    assert "can show" not in caplog.text


@pytest.mark.parametrize("words", [("task=throughput",), ("task=matmul",), ("task=noise_floor",)])
def test_tasks_without_paired_samples_say_nothing(
    words: tuple[str, ...], make_spec: MakeSpec
) -> None:
    assert before(make_spec(*words)) is None


def test_data_that_cannot_be_had_is_the_error_of_the_run(
    make_spec: MakeSpec, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="harness")
    planned.announce(make_spec("task=mmlu", "task.limit=100000"))
    assert caplog.messages == []


# A plan


def test_a_plan_from_records_runs_nothing(make_spec: MakeSpec, no_probe: None) -> None:
    for recipe in ((), (INT8,)):
        run(make_spec(*TEXT, *recipe))
    found = plan(make_spec(*TEXT, INT8), "0.5%", None)
    assert found.samples.num_items == 40 * 63
    assert found.samples.items_per_window == 63
    assert found.samples.available is None
    assert found.basis is not None
    assert not found.basis.is_assumed
    assert found.delta == pytest.approx(math.log(1.005))
    text = page(found)
    assert "about 2,520" not in text.splitlines()[2]
    assert "This run, 2,520 tokens (40 windows), can show " in text
    assert "This is by runs on file: int8_row and baseline over 2,520 tokens." in text
    assert "as the last run on file (int8_row, 2,520 tokens)" in text


@pytest.mark.parametrize(("words", "size"), [(TEXT, 40 * 63), (DIVERGENCE, 40 * 63), (MMLU, 12)])
def test_without_a_run_on_file_the_task_is_run_for_a_while(
    words: tuple[str, ...], size: int, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.runner.probe.ENOUGH_S", 0.05)
    spec = make_spec(*words)
    found = plan(spec, None, None)
    assert isinstance(found.times, Probed)
    assert found.samples.num_items == size
    assert found.samples.available is not None
    assert found.samples.available > size
    assert found.times.seconds_for(size) > 0
    assert found.times.seconds_for(2 * size) > found.times.seconds_for(size)
    assert "measured now on " in page(found)
    assert records(spec) == [], "a plan files nothing"


def test_a_run_of_another_size_is_not_taken_for_a_plan(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.runner.probe.ENOUGH_S", 0.05)
    run(make_spec(*MMLU))
    many = make_spec("task=mmlu", "task.shots=0", "task.limit=120")
    assert isinstance(plan(many, None, None).times, Probed)
    said = before(many)
    assert said is not None
    assert "; at most " in said


def test_flips_that_are_typed_replace_those_on_file(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.runner.probe.ENOUGH_S", 0.05)
    for recipe in ((), (INT8,)):
        run(make_spec(*MMLU, *recipe))
    found = plan(make_spec(*MMLU), "1pp", None)
    assert found.basis is not None
    assert found.basis.fact.endswith(" of 12 answers flipped between int8_row and baseline")
    found = plan(make_spec(*MMLU), "1pp", "10%")
    assert found.basis is not None
    assert found.basis.is_assumed
    assert found.basis.expected.flip_rate == 0.1
    assert "This assumes that 10 % of the answers flip" in page(found)


@pytest.mark.parametrize(
    ("words", "asked", "said"),
    [
        (("task=throughput",), (None, None), "task must be one whose samples are compared"),
        (MMLU, ("0.5", None), "delta must be a difference above 0 with its unit"),
        (MMLU, ("0.5pp", "200%"), "flip_rate must be a share of the answers"),
        (TEXT, ("0.5%", "5%"), "flip_rate must be left out for perplexity"),
    ],
)
def test_what_cannot_be_planned_is_said_in_one_sentence(
    words: tuple[str, ...],
    asked: tuple[str | None, str | None],
    said: str,
    make_spec: MakeSpec,
    no_probe: None,
) -> None:
    with pytest.raises(ConfigError, match=said):
        plan(make_spec(*words), *asked)


def test_a_time_on_file_counts_for_this_machine_only(make_spec: MakeSpec) -> None:
    run(make_spec(*TEXT))
    spec = make_spec(*TEXT, INT8)
    known = planned._known(spec)
    own = known[0].record.provenance.hardware
    assert isinstance(planned.nearest_time(known, own, 2520, "none"), Timed)
    other = Hardware(cpu="another", threads=own.threads, gpu=None)
    assert planned.nearest_time(known, other, 2520, "none") is None


@pytest.mark.parametrize(
    "words", [("task.window=32",), ("model.dtype=bfloat16",), ("data=hub",), ("task.bos=none",)]
)
def test_runs_of_another_setting_say_nothing(words: tuple[str, ...], make_spec: MakeSpec) -> None:
    run(make_spec(*TEXT))
    spec: RunSpec = make_spec(*TEXT, *words)
    assert planned._known(spec) == []
    assert len(planned._known(make_spec(*TEXT, "task.limit_windows=3"))) == 1


def test_times_are_in_proportion_near_a_run_and_bounds_elsewhere(make_spec: MakeSpec) -> None:
    spec = make_spec(*TEXT)
    run(spec)
    [stored] = records(spec)
    timed = Timed(
        record=stored.record, num_items=1000, item="token", seconds=100.0, is_latest=False
    )
    assert [timed.seconds_for(n) for n in (100, 500, 1000, 2000, 5000)] == [100, 50, 100, 200, 500]
    assert [timed.is_near(n) for n in (100, 500, 2000, 5000)] == [False, True, True, False]
    assert timed.source == "as a run on file (none, 1,000 tokens)"
    assert replace(timed, is_latest=True).source.startswith("as the last run on file")
