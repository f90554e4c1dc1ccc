"""What the command of a run needs to have the protocol of a published figure."""

from typing import Any

import pytest
from published import anchor, run

from harness.anchors.protocol import Sample, changes_to, drawn_questions, measured_run
from harness.anchors.schema import Anchor
from harness.results.record import RunRecord

MMLU = {"task": "mmlu", "data": "mmlu/test", "metric": "accuracy"}


def words(record: RunRecord, known: Anchor | None = None) -> list[str]:
    found = measured_run(record)
    assert found is not None
    return [*changes_to(known or anchor(), found)]


@pytest.mark.parametrize(
    ("changes", "needed"),
    [
        ({}, []),
        ({"options": {"window": 512}}, ["task.window=2048"]),
        ({"options": {"limit_windows": 16}}, ["task.limit_windows=null"]),
        ({"options": {"bos": "every", "window": 4096}}, ["task.bos=null", "task.window=2048"]),
        ({"options": {"chat_template": True}}, ["task.chat_template=null"]),
        ({"data": {"name": "embedded"}}, ["data=hub"]),
        (
            {"task": "perplexity_llama_cpp", "data": {"name": "embedded"}},
            ["task=perplexity", "task.window=2048", "data=hub"],
        ),
        # Options that are off, and options that do not move the figure.
        ({"options": {"seed": 3, "batch_size": 8, "chat_template": False, "system": None}}, []),
    ],
)
def test_options_and_data_that_differ(changes: dict[str, Any], needed: list[str]) -> None:
    assert words(run(**changes)) == needed


def test_a_task_without_a_name_of_its_data_needs_no_other_data() -> None:
    record = run(task="lm_eval", data={"name": None})
    assert words(record) == ["task=perplexity", "task.window=2048"]


def test_a_figure_of_another_commit() -> None:
    assert words(run(), anchor(revision="c0ffee")) == []
    assert words(run(), anchor(revision="beef")) == ["model.revision=beef"]


def mmlu(**options: Any) -> RunRecord:
    """All questions with the data set's five examples."""
    data = {"name": "mmlu/test", "num_shots": options.get("shots") or 5}
    own = {"window": None, "shots": None, "limit": None, "subjects": None, "seed": 42}
    return run(task="mmlu", options=own | options, data=data)


@pytest.mark.parametrize(
    ("record", "shots", "needed"),
    [
        (mmlu(), 5, []),
        (mmlu(shots=5), 5, []),
        (mmlu(), 0, ["task.shots=0"]),
        (mmlu(subjects=["anatomy"]), 5, ["task.subjects=null"]),
        (mmlu(limit=1000, seed=7), 5, []),  # drawn at random
    ],
)
def test_mmlu(record: RunRecord, shots: int, needed: list[str]) -> None:
    assert words(record, anchor(**MMLU, options={"shots": shots})) == needed


def test_the_first_documents_of_lm_eval_are_no_random_draw() -> None:
    known = anchor(task="lm_eval", metric="piqa/acc", options={"tasks": ("piqa",)}, data=None)
    record = run(task="lm_eval", options={"window": None, "tasks": ["piqa", "arc"], "limit": 100})
    assert words(record, known) == ["task.limit=null"]


def test_questions_that_were_drawn() -> None:
    task = mmlu().task
    assert task is not None
    counts = ((1000, 14042), (14042, 14042))
    facts = [dict(zip(("num_questions", "num_available"), each, strict=True)) for each in counts]
    found = [drawn_questions(task.model_copy(update={"data": data})) for data in (*facts, {})]
    assert found == [Sample(1000, 14042), None, None]
