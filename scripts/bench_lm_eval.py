"""lm-eval's tasks on an engine beside lm-eval's own HFLM, and beside `task=mmlu`.

    short_shots_N    N solved questions of moral_disputes, then one; its four choices are scored as
                     texts
    long_shots_N     the same of high_school_world_history, whose questions quote a passage
    mmlu             lm-eval's own MMLU on the engine, beside `task=mmlu`
    both_answers     `task.answers=[direct,generate]`, beside each alone

Rows are those of MMLU, handed to lm-eval in memory. HFLM runs at the fastest of some batch sizes.
The time covers prompts, tokenization, model and scores. The engine runs before and after the other.

`ratio_of_tokens` is how many times as many tokens HFLM runs through the decoder as the engine: at
equal token/s, the engine is so many times as fast. HFLM runs every sequence of context and choice
whole, equal ones once; the engine runs shared tokens once. Padding does not count.
"""

import gc
import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import bench_reference as reference
from bench_reference import Json

from harness.data.source import DataSource, Question, QuestionSet
from harness.engines.lm_eval import EngineLM
from harness.engines.local.cpu_matmul import MatmulWay, multiplied
from harness.engines.local.engine import LocalEngine
from harness.engines.requests import Answer, Request
from harness.engines.tree import num_tokens, prefix_tree
from harness.models.loaded import LoadedModel
from harness.tasks.mmlu.direct import Direct
from harness.tasks.mmlu.generate import Generate
from harness.tasks.mmlu.mmlu import MMLU


class Choices(NamedTuple):
    """A task whose four choices are scored as texts."""

    subject: str
    """One subject, as a task has one kind of question."""
    shots: int


SHORT, LONG = "moral_disputes", "high_school_world_history"
TASKS = {
    "short_shots_25": Choices(SHORT, 25),
    "short_shots_5": Choices(SHORT, 5),
    "short_shots_0": Choices(SHORT, 0),
    "long_shots_5": Choices(LONG, 5),
    "long_shots_0": Choices(LONG, 0),
}
MOST_SHOTS = 25
"""The first questions of a subject are its solved ones; tasks ask those behind them."""
TRIED = 8
"""Documents on which a batch size of HFLM is tried."""
TARGETS: dict[str, tuple[str, float]] = {
    **dict.fromkeys(TASKS, ("at least", 5.0)),
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


def task_of(task: Choices, asked: Sequence[Question], shown: Sequence[Question]) -> Any:
    """Return lm-eval's task over questions; a new one for each run, since it keeps its answers."""
    from datasets import Dataset
    from lm_eval.tasks import TaskManager

    rows = {
        "test": Dataset.from_list(rows_of(asked)),
        "dev": Dataset.from_list(rows_of(shown)),
    }
    definition = {
        "task": f"{task.subject}_{task.shots}",
        "custom_dataset": lambda **_: rows,
        "test_split": "test",
        "fewshot_split": "dev",
        "fewshot_config": {"sampler": "first_n"},
        "num_fewshot": task.shots,
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


class Recording(LocalEngine):
    """An engine that keeps the requests of its last call."""

    asked: Sequence[Request] = ()

    def answer(self, requests: Sequence[Request]) -> Iterator[tuple[int, Answer]]:
        """Yield the index of each request and its answer."""
        self.asked = requests
        return super().answer(requests)


def beside_hflm(
    loaded: LoadedModel,
    task: Choices,
    listed: Sequence[Question],
    sizes: Sequence[int],
    how: MatmulWay,
) -> Json:
    """Return times of a task on the engine and on HFLM at its fastest batch size.

    Args:
        loaded: The model.
        task: The task.
        listed: Questions of its subject: `MOST_SHOTS` solved ones, then those that are asked.
        sizes: Batch sizes of HFLM.
        how: How the engine multiplies matrices.
    """
    from lm_eval.models.huggingface import HFLM

    shown, asked = listed[:MOST_SHOTS], listed[MOST_SHOTS:]
    length = loaded.max_length or 2048
    engine = Recording(loaded)

    def ours(documents: Sequence[Question]) -> dict[str, list[float]]:
        loaded.kept.clear()
        with multiplied(how):
            return evaluated(EngineLM(engine, length), task_of(task, documents, shown))

    def theirs(size: int, documents: Sequence[Question]) -> dict[str, list[float]]:
        model = HFLM(
            pretrained=loaded.module,
            tokenizer=loaded.tokenizer,
            batch_size=size,
            softmax_dtype="float32",
        )
        return evaluated(model, task_of(task, documents, shown))

    ours(asked[:TRIED])  # a warm-up
    first, found = timed(lambda: ours(asked))
    shared, whole = prefix_tree(engine.asked), prefix_tree(engine.asked, share=False)
    tokens = {"engine": num_tokens(shared), "hflm": num_tokens(whole)}
    longest = max(len(each.context) + len(each.continuation) for each in engine.asked)
    # HFLM has logits in the model's dtype, and its log-softmax copies them to float32 twice.
    row = longest * loaded.vocab_size * (loaded.dtype.itemsize + 2 * 4)
    fitting = reference.fitting(sizes, row)
    tried = {size: timed(lambda s=size: theirs(s, asked[:TRIED]))[0] for size in fitting}
    fastest = min(tried, key=lambda size: tried[size])
    other, expected = timed(lambda: theirs(fastest, asked))
    last, _ = timed(lambda: ours(asked))
    gaps = [abs(a - b) for i in found for a, b in zip(found[i], expected[i], strict=True)]
    return {
        "documents": len(asked),
        "requests": len(engine.asked),
        "tokens_run": tokens,
        "ratio_of_tokens": tokens["hflm"] / tokens["engine"],
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
    loaded: LoadedModel,
    data: QuestionSet,
    source: DataSource,
    count: int,
    sizes: Sequence[int],
    how: MatmulWay,
    names: Sequence[str] = (*TARGETS,),
) -> Json:
    """Return the figures of some parts; `count` documents of each task beside HFLM."""
    found: Json = {}
    for name, task in TASKS.items():
        if name not in names:
            continue
        listed = [q for q in data.questions if q.subject == task.subject][: MOST_SHOTS + count]
        found[name] = beside_hflm(loaded, task, listed, sizes, how)
    with multiplied(how):
        if "mmlu" in names:
            found["mmlu"] = beside_mmlu(loaded, data, source)
        if "both_answers" in names:
            found["both_answers"] = both_answers(loaded, source)
    return found


def lines(found: Json) -> Iterator[str]:
    """Yield a line for each part: its ratio, what is wanted, and the ratio of tokens."""
    for name in found:
        words, bound = TARGETS[name]
        line = f"{name}: {found[name]['ratio']:.3g}, {words} {bound:g} is wanted"
        if "ratio_of_tokens" in found[name]:
            line += f"; HFLM runs {found[name]['ratio_of_tokens']:.3g} times as many tokens"
        yield line
