"""Parts of `bench_eval.py` on the tiny model: lm-eval's tasks, both answers, two versions."""

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from repository import ROOT

from harness.data.embedded import EmbeddedData
from harness.models.loaded import LoadedModel

sys.path.append(str(ROOT / "scripts"))

import bench_lm_eval
import bench_versions

QUESTIONS = EmbeddedData().questions()


def test_engine_and_hflm_give_the_same_scores(
    tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(bench_lm_eval.SHOTS, "shots_25", 3)
    found = bench_lm_eval.beside_hflm(tiny, "shots_25", QUESTIONS.questions[:27], [2])
    assert (found["documents"], found["requests"], found["hflm_batch_size"]) == (2, 8, 2)
    assert found["largest_difference_nat"] < 1e-3  # texts of a hundred tokens


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
