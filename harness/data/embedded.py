"""Real text and questions without a download: MMLU's dev set, with explanations.

`mmlu_dev.jsonl` has 282 dev questions of MMLU in 57 subjects, solved step by step: those of task
`mmlu_flan_cot_fewshot` in lm-eval 0.4.13. They are used as

- questions: each is asked with up to four other questions of its subject as examples, never itself;
- text, for perplexity: the explanations, joined by a blank line.

Use this to try the harness without a data set. The set is small, and models may have seen it in
training: its scores compare recipes on one model, and are not MMLU scores.
"""

import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from harness.data.source import SEPARATOR, Question, QuestionSet, Text, joined_starts

FILE = Path(__file__).with_name("mmlu_dev.jsonl")
MAX_SHOTS = 4
"""A subject has five questions: one is asked, four are examples."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddedData:
    """The MMLU dev questions and explanations in the harness."""

    def text(self) -> Text:
        """Return the explanations, joined by a blank line."""
        return _text()

    def questions(self) -> QuestionSet:
        """Return the four-choice questions, each with others of its subject as examples."""
        return _questions()


def _rows() -> list[dict[str, Any]]:
    """Return subject and explanation of each row; with four choices also question and answer."""
    return [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]


@lru_cache(maxsize=1)
def _text() -> Text:
    explanations = [row["explanation"] for row in _rows()]
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
    seen = Counter[str]()
    examples: dict[str, tuple[Question, ...]] = {}
    for row in _rows():
        subject = row["subject"]
        index = seen[subject]
        seen[subject] += 1
        if "choices" not in row:  # MMLU has one question with five choices
            continue
        question = Question(
            id=f"dev/{subject}/{index}",
            subject=subject,
            question=row["question"],
            choices=tuple(row["choices"]),
            answer=row["answer"],
        )
        examples[subject] = (*examples.get(subject, ()), question)
    return QuestionSet(
        name="lm-eval-mmlu-dev",
        questions=tuple(question for solved in examples.values() for question in solved),
        examples=examples,
        default_shots=MAX_SHOTS,
        max_shots=MAX_SHOTS,
    )
