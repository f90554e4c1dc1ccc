"""A run of two answers is, part by part, what a run of each answer alone would have filed."""

import pytest
from runs import INT8, MMLU, MakeSpec

from harness.claims.grouping import comparable
from harness.report.intake import take_in
from harness.results.parts import in_parts
from harness.results.store import Stored, read_samples
from harness.runner.run import run

BOTH = ("task.answers=[direct,generate]",)


@pytest.fixture
def runs(make_spec: MakeSpec) -> dict[str, Stored]:
    """One run of both answers, and one of each alone, in one folder."""
    words = {"both": (*MMLU, *BOTH), "mmlu": MMLU}
    words["mmlu_generate"] = tuple(word.replace("=mmlu", "=mmlu_generate") for word in MMLU)
    return {name: run(make_spec(INT8, *each)).stored for name, each in words.items()}


def test_each_part_is_the_run_of_its_answer_alone(runs: dict[str, Stored]) -> None:
    assert [item.record.task.name for item in runs.values()] == [
        "mmlu_direct_generate",
        "mmlu",
        "mmlu_generate",
    ]
    parts = in_parts([runs["both"]])
    assert [part.record.task.name for part in parts] == ["mmlu", "mmlu_generate"]
    for part in parts:
        alone = runs[part.record.task.name]
        assert part.record.task == alone.record.task
        assert part.record.metrics == alone.record.metrics
        found, expected = read_samples(part), read_samples(alone)
        assert list(found["id"]) == list(expected["id"])
        assert list(found["answer"]) == list(expected["answer"])
    # A record of one task is its only part.
    assert in_parts([runs["mmlu"]]) == [runs["mmlu"]]


def test_a_report_compares_a_part_with_runs_of_its_task(runs: dict[str, Stored]) -> None:
    root = runs["both"].path.parents[2]
    stored, problems = take_in(root)
    assert problems == []
    groups = {group.task.name: group for group in comparable(stored)}
    assert groups.keys() == {"mmlu", "mmlu_generate"}
