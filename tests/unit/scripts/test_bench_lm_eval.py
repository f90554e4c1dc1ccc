"""Parts of `bench_eval.py` on the tiny model: lm-eval's tasks, both answers, two versions."""

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lm_eval.models.huggingface import HFLM
from repository import ROOT

from harness.data.embedded import EmbeddedData
from harness.models.loaded import LoadedModel

sys.path.append(str(ROOT / "scripts"))

import bench_lm_eval
import bench_versions

QUESTIONS = EmbeddedData().questions()


@pytest.mark.parametrize("shots", [0, 3])
def test_engine_and_hflm_give_the_same_scores(tiny: LoadedModel, shots: int) -> None:
    task = bench_lm_eval.Choices("any", shots)
    found = bench_lm_eval.beside_hflm(tiny, task, QUESTIONS.questions[:27], [2], "native")
    assert (found["documents"], found["requests"], found["hflm_batch_size"]) == (2, 8, 2)
    assert found["largest_difference_nat"] < 1e-3  # texts of a hundred tokens


def test_hflm_runs_the_tokens_that_are_counted(
    tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[int] = []
    call = HFLM._model_call

    def counting(model: HFLM, inputs: torch.Tensor) -> torch.Tensor:
        counted.append(inputs.numel())
        return call(model, inputs)

    monkeypatch.setattr(HFLM, "_model_call", counting)
    task = bench_lm_eval.Choices("any", 1)
    found = bench_lm_eval.beside_hflm(tiny, task, QUESTIONS.questions[:27], [1], "native")
    # The two documents run twice: when the batch size is tried, and timed.
    assert found["tokens_run"]["hflm"] == sum(counted) / 2
    assert found["ratio_of_tokens"] == found["tokens_run"]["hflm"] / found["tokens_run"]["engine"]
    assert found["ratio_of_tokens"] > 1


def test_every_part_has_a_line_and_tasks_have_both_ratios() -> None:
    found = {name: {"ratio": 7.0, "ratio_of_tokens": 3.0} for name in bench_lm_eval.TASKS}
    found |= {"mmlu": {"ratio": 1.1}, "both_answers": {"ratio": 1.2}}
    lines = list(bench_lm_eval.lines(found))
    assert len(lines) == len(found)
    assert lines[0] == ("short_shots_25: 7, at least 5 is wanted; HFLM runs 3 times as many tokens")
    assert lines[-1] == "both_answers: 1.2, at most 1.15 is wanted"


def test_both_answers_are_timed_beside_each(tiny: LoadedModel) -> None:
    few = replace(QUESTIONS, questions=QUESTIONS.questions[:2])
    found = bench_lm_eval.both_answers(tiny, SimpleNamespace(questions=lambda: few))
    assert {name: len(listed) for name, listed in found["seconds"].items()} == {
        "both": 2,
        "direct": 2,
        "generate": 2,
    }
    assert found["ratio"] > 0


def test_versions_take_turns_and_their_scores_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = []

    def run(folder: Path, part: str, options: Any) -> dict[str, Any]:
        ran.append(folder)
        old = folder == tmp_path
        return {
            "seconds": 6.0 if old else 2.0,
            "scores": {"a/x": 1.0, "b/x": 2.5 if old else 2.0},
            "texts": {"a": "A", "b": "B" if old else "C"},
        }

    monkeypatch.setattr(bench_versions, "_run", run)
    found = bench_versions.beside(str(tmp_path), "direct", [], rounds=2)
    assert ran == [tmp_path, ROOT, ROOT, tmp_path]
    assert found["speedup"] == 3.0
    assert found["largest_difference_of_a_score"] == 0.5
    assert (found["samples"], found["different_answers"]) == (2, 1)
