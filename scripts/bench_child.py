"""Time one task of `bench_eval.py --old` in the harness that PYTHONPATH names; print JSON.

Runs in a process of its own, with the code of today or of an earlier commit: tasks of earlier
versions take a loaded model, tasks of today an engine. The first, short run is not timed.
"""

import argparse
import json
import sys
import time
from dataclasses import dataclass, replace
from itertools import groupby, islice
from typing import Any

import torch

from harness.data.hub import HubData
from harness.data.source import Question, QuestionSet
from harness.engines.local import cpu_matmul
from harness.machine import provenance
from harness.models.loaded import LoadedModel
from harness.models.sources.embedded import EmbeddedModel
from harness.tasks.mmlu import MMLU, Direct, Generate
from harness.tasks.perplexity.perplexity import Perplexity


@dataclass(frozen=True, kw_only=True)
class Chosen(HubData):
    """MMLU with only some of its questions."""

    asked: tuple[Question, ...]

    def questions(self) -> QuestionSet:
        """Return the chosen questions with MMLU's examples."""
        return replace(HubData().questions(), questions=self.asked)


def engine_of(loaded: LoadedModel) -> Any:
    """Return what a task of this version is run on."""
    try:
        from harness.engines.local.engine import LocalEngine
    except ImportError:
        return loaded
    return LocalEngine(loaded)


def task_of(part: str, subjects: int, per_subject: int, windows: int) -> Any:
    """Return the task of a part."""
    if part == "perplexity":
        return Perplexity(data=HubData(), window=2048, limit_windows=windows)
    every = sorted(HubData().questions().questions, key=lambda question: question.subject)
    groups = islice((list(g) for _, g in groupby(every, lambda q: q.subject)), 0, None, subjects)
    asked = tuple(question for group in groups for question in group[:per_subject])
    answer = Direct() if part == "direct" else Generate()
    return MMLU(data=Chosen(asked=asked), answer=answer)


def main() -> None:
    """Run a part and print its time and its scores."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=["direct", "generate", "perplexity"])
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--every", type=int, default=5, help="every so many subjects")
    parser.add_argument("--per-subject", type=int, default=25)
    parser.add_argument("--windows", type=int, default=4)
    given = parser.parse_args()
    loaded = EmbeddedModel(dtype=given.dtype).load(torch.device("cpu"))
    how = cpu_matmul.choose_way(loaded, provenance.cpu_flags())
    with cpu_matmul.multiplied(how):
        task_of(given.part, 57, 1, 1).run(engine_of(loaded))
        loaded.kept.clear()
        task = task_of(given.part, given.every, given.per_subject, given.windows)
        started = time.perf_counter()
        result = task.run(engine_of(loaded))
        seconds = time.perf_counter() - started
    scores = {
        f"{sample.id}/{name}": value
        for sample in result.samples
        for name, value in sample.scores.items()
    }
    texts = {sample.id: sample.answer for sample in result.samples}
    json.dump({"seconds": seconds, "scores": scores, "texts": texts}, sys.stdout)


if __name__ == "__main__":
    main()
