"""Real text and questions without a download: MMLU's dev set, inside the lm-eval package.

lm-eval ships the dev questions of MMLU, solved step by step, as the examples of its task
`mmlu_flan_cot_fewshot`: 282 questions in 57 files. They are used as

- questions: each is asked with up to four other questions of its subject as examples, never itself;
- text, for perplexity: the explanations, joined by a blank line.

Use this to try the harness without a data set. The set is small, and models may have seen it in
training: its scores compare recipes on one model, and are not MMLU scores.
"""

import hashlib
import re
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from harness.data.source import (
    CHOICES,
    SEPARATOR,
    Question,
    QuestionSet,
    Text,
    check_question,
    joined_starts,
)
from harness.errors import DataError

TASK_FOLDER = "tasks/mmlu/flan_cot_fewshot"
MAX_SHOTS = 4
"""A subject has five questions: one is asked, four are examples."""

CHOICES_PATTERN = re.compile(
    r"^(?P<question>.*?)\s*\(A\)\s(?P<A>.*?)\s*\(B\)\s(?P<B>.*?)"
    r"\s*\(C\)\s(?P<C>.*?)\s*\(D\)\s(?P<D>.*)$",
    re.DOTALL,
)
ANSWER_PATTERN = re.compile(r"[Tt]he answer is \(?(?P<letter>[A-E])\)?")


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddedData:
    """The MMLU dev questions and explanations of the installed lm-eval package."""

    def text(self) -> Text:
        """Return the explanations, joined by a blank line."""
        return _text()

    def questions(self) -> QuestionSet:
        """Return the four-choice questions, each with others of its subject as examples."""
        return _questions()


class _Loader(yaml.SafeLoader):
    """Safe loader that reads lm-eval's `!function` tags as None."""


_Loader.add_multi_constructor("!", lambda _loader, _suffix, _node: None)


@lru_cache(maxsize=1)
def _samples() -> tuple[tuple[str, int, str, str], ...]:
    """Return (subject, index in the subject, question with choices, explanation) of each sample."""
    spec = find_spec("lm_eval")
    roots = [] if spec is None else list(spec.submodule_search_locations or [])
    files = [file for root in roots for file in sorted(Path(root, TASK_FOLDER).glob("mmlu_*.yaml"))]
    if not files:
        raise DataError(
            f"data=embedded must find {TASK_FOLDER}/mmlu_*.yaml in the lm-eval package, got none; "
            "install lm-eval 0.4.13 (see constraints.txt)"
        )
    samples = []
    for file in files:
        task: dict[str, Any] = yaml.load(file.read_text(encoding="utf-8"), _Loader)  # noqa: S506
        for index, sample in enumerate(task["fewshot_config"]["samples"]):
            samples.append((task["dataset_name"], index, sample["question"], sample["target"]))
    return tuple(samples)


@lru_cache(maxsize=1)
def _text() -> Text:
    explanations = [target.strip() for _, _, _, target in _samples()]
    joined = SEPARATOR.join(explanations)
    return Text(
        name="lm-eval-mmlu-dev/explanations",
        text=joined,
        sha256=hashlib.sha256(joined.encode()).hexdigest(),
        num_rows=len(explanations),
        documents=tuple(explanations),
        starts=joined_starts(explanations),
    )


@lru_cache(maxsize=1)
def _questions() -> QuestionSet:
    examples: dict[str, tuple[Question, ...]] = {}
    for subject, index, question, target in _samples():
        parsed = _parse(subject, index, question, target)
        if parsed is not None:
            examples[subject] = (*examples.get(subject, ()), parsed)
    return QuestionSet(
        name="lm-eval-mmlu-dev",
        questions=tuple(question for solved in examples.values() for question in solved),
        examples=examples,
        default_shots=MAX_SHOTS,
        max_shots=MAX_SHOTS,
    )


def _parse(subject: str, index: int, question: str, target: str) -> Question | None:
    """Return a question in MMLU's form; None for a question with five choices."""
    if "(E)" in question:
        return None
    where = f"lm-eval {TASK_FOLDER}/mmlu_{subject}.yaml"
    found, answer = CHOICES_PATTERN.match(question), ANSWER_PATTERN.search(target)
    if found is None or answer is None:
        raise DataError(
            f"{where}, row {index}: must have four choices and an answer, got {question!r}, "
            f"{target!r}; install lm-eval 0.4.13 (see constraints.txt)"
        )
    row = {
        "subject": subject,
        "question": found["question"].strip(),
        "choices": [found[letter].strip() for letter in CHOICES],
        "answer": CHOICES.index(answer["letter"]),
    }
    check_question(f"{where}, row {index}", row)
    return Question(
        id=f"dev/{subject}/{index}",
        subject=subject,
        question=str(row["question"]),
        choices=tuple(found[letter].strip() for letter in CHOICES),
        answer=CHOICES.index(answer["letter"]),
    )
