"""lm-eval's tasks on an engine beside lm-eval's own HFLM, and beside `task=mmlu`.

    shots_25         25 solved questions, then one; its four choices are scored as texts
    choices_4        a question without examples; its four choices are scored as texts
    mmlu             lm-eval's own MMLU on the engine, beside `task=mmlu`
    both_answers     `task.answers=[direct,generate]`, beside each alone

Rows are those of MMLU, handed to lm-eval in memory. HFLM runs at the fastest of some batch sizes.
The time covers prompts, tokenization, model and scores. The engine runs before and after the other.
"""

import gc
import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import bench_reference as reference
from bench_reference import Json

from harness.data.source import DataSource, Question, QuestionSet
from harness.engines.lm_eval import EngineLM
from harness.engines.local.engine import LocalEngine
from harness.models.loaded import LoadedModel
from harness.tasks.mmlu.direct import Direct
from harness.tasks.mmlu.generate import Generate
from harness.tasks.mmlu.mmlu import MMLU

SHOTS = {"shots_25": 25, "choices_4": 0}
TRIED = 8
"""Documents on which a batch size of HFLM is tried."""
TARGETS: dict[str, tuple[str, float]] = {
    "shots_25": ("at least", 5.0),
    "choices_4": ("at least", 5.0),
    "mmlu": ("at most", 1.15),
    "both_answers": ("at most", 1.15),
}
"""Part -> bound of its `ratio`."""


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds and the result of a call."""
    gc.collect()
    started = time.perf_counter()
    found = run()
    return time.perf_counter() - started, found


def rows_of(listed: Sequence[Question]) -> list[Json]:
    """Return questions as rows of a data set."""
    return [asdict(question) | {"choices": list(question.choices)} for question in listed]


def task_of(name: str, asked: Sequence[Question], shown: Sequence[Question]) -> Any:
    """Return lm-eval's task over questions; a new one for each run, since it keeps its answers."""
    from datasets import Dataset
    from lm_eval.tasks import TaskManager

    rows = {
        "test": Dataset.from_list(rows_of(asked)),
        "dev": Dataset.from_list(rows_of(shown)),
    }
    definition = {
        "task": name,
        "custom_dataset": lambda **_: rows,
        "test_split": "test",
        "fewshot_split": "dev",
        "fewshot_config": {"sampler": "first_n"},
        "num_fewshot": SHOTS[name],
        "output_type": "multiple_choice",
        "doc_to_text": "Question: {{question}}\nAnswer:",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc"}],
    }
    return TaskManager(include_defaults=False).load([definition])


def evaluated(model: Any, tasks: Any) -> dict[str, list[float]]:
    """Return ln p of the choices of each document."""
    import lm_eval

    found = lm_eval.evaluate(model, tasks, bootstrap_iters=0, log_samples=True)
    samples = [sample for listed in found["samples"].values() for sample in listed]
    return {s["doc"]["id"]: [reply[0] for reply in s["filtered_resps"]] for s in samples}


def beside_hflm(
    loaded: LoadedModel, name: str, asked: Sequence[Question], sizes: Sequence[int]
) -> Json:
    """Return times of a task on the engine and on HFLM at its fastest batch size."""
    from lm_eval.models.huggingface import HFLM

    shown, rest = asked[:25], asked[25:]
    length = loaded.max_length or 2048

    def ours() -> dict[str, list[float]]:
        loaded.kept.clear()
        return evaluated(EngineLM(LocalEngine(loaded), length), task_of(name, rest, shown))

    def theirs(size: int, documents: Sequence[Question]) -> dict[str, list[float]]:
        model = HFLM(
            pretrained=loaded.module,
            tokenizer=loaded.tokenizer,
            batch_size=size,
            softmax_dtype="float32",
        )
        return evaluated(model, task_of(name, documents, shown))

    tried = {size: timed(lambda s=size: theirs(s, rest[:TRIED]))[0] for size in sizes}
    fastest = min(tried, key=lambda size: tried[size])
    first, found = timed(ours)
    other, expected = timed(lambda: theirs(fastest, rest))
    last, _ = timed(ours)
    gaps = [abs(a - b) for i in found for a, b in zip(found[i], expected[i], strict=True)]
    return {
        "documents": len(rest),
        "requests": 4 * len(rest),
        "engine_s": [first, last],
        "hflm_s": other,
        "hflm_batch_size": fastest,
        "hflm_s_of_tried": tried,
        "ratio": other / statistics.mean([first, last]),
        "largest_difference_nat": max(gaps),
    }


def beside_mmlu(loaded: LoadedModel, data: QuestionSet, source: DataSource) -> Json:
    """Return times of MMLU through lm-eval and of `task=mmlu`, in turns."""
    questions = source.questions().questions
    length = loaded.max_length or 2048

    def through_lm_eval() -> dict[str, list[float]]:
        loaded.kept.clear()
        tasks = reference.mmlu_tasks("direct", data, questions, shots=5)
        return evaluated(EngineLM(LocalEngine(loaded), length), tasks)

    def alone() -> dict[str, list[float]]:
        loaded.kept.clear()
        samples = MMLU(data=source, answer=Direct()).run(LocalEngine(loaded)).samples
        return {sample.id: reference.letters(sample) for sample in samples}

    runs = [timed(run) for run in (through_lm_eval, alone, alone, through_lm_eval)]
    found, expected = runs[0][1], runs[1][1]
    gaps = [abs(a - b) for i in found for a, b in zip(found[i], expected[i], strict=True)]
    lm_eval_s, mmlu_s = [runs[0][0], runs[3][0]], [runs[1][0], runs[2][0]]
    return {
        "questions": len(questions),
        "lm_eval_s": lm_eval_s,
        "mmlu_s": mmlu_s,
        "ratio": sum(lm_eval_s) / sum(mmlu_s),
        "largest_difference_nat": max(gaps),
    }


def both_answers(loaded: LoadedModel, source: DataSource) -> Json:
    """Return times of one run with both answers and of a run with each, in turns."""
    tasks = {
        "both": MMLU(data=source, answer=Direct(), answers=("direct", "generate")),
        "direct": MMLU(data=source, answer=Direct()),
        "generate": MMLU(data=source, answer=Generate()),
    }
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for name in itertools.chain(tasks, reversed(tasks)):
        loaded.kept.clear()
        seconds[name].append(timed(lambda n=name: tasks[n].run(LocalEngine(loaded)))[0])
    means = {name: statistics.mean(listed) for name, listed in seconds.items()}
    return {
        "questions": len(source.questions().questions),
        "seconds": seconds,
        "ratio": means["both"] / means["generate"],
        "ratio_to_direct": means["both"] / means["direct"],
    }


def part(
    loaded: LoadedModel, data: QuestionSet, source: DataSource, count: int, sizes: Sequence[int]
) -> Json:
    """Return all figures; `count` documents of each task beside HFLM."""
    # One subject, as a task has one kind of question.
    asked = [q for q in data.questions if q.subject == "moral_disputes"][: 25 + count]
    found = {name: beside_hflm(loaded, name, asked, sizes) for name in SHOTS}
    found["mmlu"] = beside_mmlu(loaded, data, source)
    found["both_answers"] = both_answers(loaded, source)
    return found
