"""Flips: answers to the same questions by a model and by its baseline.

Two models of equal accuracy may be right on different questions. A flip is an answer that turns
from right to wrong or from wrong to right (Dutta et al., "Accuracy is Not All You Need", 2024,
arXiv 2407.09141). A disagreement is any changed answer, also from one wrong letter to another.

With b flips to wrong and c flips to right among n questions, accuracy changes by (c - b) / n.
McNemar's exact test asks whether b and c differ by more than chance: if they do not, b is binomial
with b + c draws and probability 1/2.

The probability of the right answer is the probability of its letter over the whole vocabulary.
Questions are independent.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from harness import stats
from harness.data.source import CHOICES
from harness.engines.base import Baseline, Engine
from harness.engines.requests import Array
from harness.errors import ModelError
from harness.results.record import Metric, SampleScore, Unit
from harness.tasks.base import TaskResult
from harness.tasks.divergence.statistics import DELTA_P_NOTE, mean_metric
from harness.tasks.mmlu.direct import Direct
from harness.tasks.mmlu.mmlu import MMLU


def check_rules(questions: MMLU | None) -> None:
    """Check that answers have probabilities.

    Raises:
        ValueError: They are taken by another rule than the direct one.
    """
    rules = questions.rules if questions else ()
    if others := [type(rule).__name__ for rule in rules if not isinstance(rule, Direct)]:
        raise ValueError(
            "questions must be answered by the direct rule alone, whose answers are letters "
            f"with probabilities, got {', '.join(others)}"
        )


def question_facts(questions: MMLU, answers: TaskResult) -> dict[str, Any]:
    """Return what identifies the questions and the prompts that were asked."""
    facts = questions.data_facts()
    prompts = {key: value for key, value in answers.info.data.items() if key not in facts}
    return {"questions": facts, "prompts": prompts}


def compare_answers(questions: MMLU, engine: Engine, base: Baseline) -> TaskResult:
    """Compare the answers of an engine with those of its baseline, question by question.

    The baseline is asked once in a sweep.

    Raises:
        ModelError: Their tokenizers give different token ids for the prompts.
    """
    facts = questions.data_facts()
    key = ("answers", questions, facts["questions_sha256"], facts["examples_sha256"])
    candidate = questions.run(engine)
    reference = base.engine.cached(key, lambda: questions.run(base.engine))
    if candidate.info.data["token_ids_sha256"] != reference.info.data["token_ids_sha256"]:
        raise ModelError(
            f"model.baseline must have the tokenizer of the model to be asked the same prompts, "
            f"but {base.info.name} gives other token ids than {engine.name}; "
            "name the unquantized model it was made of"
        )
    right = {question.id: CHOICES[question.answer] for question in questions.questions()}
    answers_p = {sample.id: sample for sample in reference.samples}
    samples = tuple(_pair(q, answers_p[q.id], right[q.id]) for q in candidate.samples)
    return TaskResult(
        info=candidate.info,
        metrics=answer_metrics(samples),
        samples=samples,
        warnings=candidate.warnings,
    )


def answer_metrics(samples: Sequence[SampleScore]) -> tuple[Metric, ...]:
    """Return flips, disagreement, accuracies, and changes of the right answer's probability."""
    column = {name: [s.scores[name] for s in samples] for name in samples[0].scores}
    after, before = column["correct"], column["correct_baseline"]
    to_wrong = sum(b > a for a, b in zip(after, before, strict=True))
    to_right = sum(a > b for a, b in zip(after, before, strict=True))
    changed = round(math.fsum(column["changed"]))
    changes = np.subtract(column["prob_right"], column["prob_right_baseline"])
    count = partial(Metric.count, of=len(samples), item="question")
    share = partial(Metric.share, of=len(samples), item="question")
    return (
        count("flips_to_wrong", to_wrong, higher_is_better=False),
        count("flips_to_right", to_right, higher_is_better=True),
        share("flips", to_wrong + to_right, higher_is_better=False),
        share("answer_disagreement", changed, higher_is_better=False),
        _mcnemar(to_wrong, to_right, len(samples)),
        share("accuracy", round(math.fsum(after)), higher_is_better=True),
        share("accuracy_baseline", round(math.fsum(before)), higher_is_better=True),
        _change("delta_p_right_mean", changes, better=True),
        _change("delta_p_right_rms", changes**2, better=False, finish=stats.root),
    )


def _pair(sample: SampleScore, base: SampleScore, right: str) -> SampleScore:
    return SampleScore(
        id=sample.id,
        cluster=sample.cluster,
        answer=sample.answer,
        scores={
            "correct": sample.scores["correct"],
            "correct_baseline": base.scores["correct"],
            "changed": float(sample.answer != base.answer),
            "prob_right": math.exp(sample.scores[f"log_prob_{right}"]),
            "prob_right_baseline": math.exp(base.scores[f"log_prob_{right}"]),
        },
    )


def _mcnemar(to_wrong: int, to_right: int, n: int) -> Metric:
    flips = to_wrong + to_right
    return Metric(
        name="flips_p",
        value=stats.mcnemar(to_wrong, to_right),
        unit=Unit.ONE,
        n=n,
        n_of="question",
        higher_is_better=None,
        note=f"exact two-sided McNemar test of {flips} flips; a p-value has no interval",
    )


def _change(
    name: str, values: Array, *, better: bool, finish: Callable[[float], float] = float
) -> Metric:
    return mean_metric(
        name,
        values,
        clusters=np.arange(len(values)),  # each question is a cluster of its own
        unit=Unit.ONE,
        better=better,
        finish=finish,
        note=DELTA_P_NOTE,
        items=("question", "question"),
    )
