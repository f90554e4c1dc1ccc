"""Real questions, the real model in float32: the cloze form of MMLU here and in lm-eval."""

from collections import defaultdict
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from lm_eval_mmlu import samples_of, task_of
from lm_eval_model import hflm

from harness.data.hub import HubData
from harness.data.source import Question, QuestionSet
from harness.engines.local.engine import LocalEngine
from harness.models.loaded import LoadedModel
from harness.models.sources.embedded import EmbeddedModel
from harness.tasks.mmlu.cloze import Cloze
from harness.tasks.mmlu.mmlu import MMLU

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # lm-eval's and its libraries'
    pytest.mark.usefixtures("hub_root"),
]
FIRST = [("anatomy", 6), ("college_mathematics", 6), ("high_school_us_history", 2)]
"""Subject, and how many of its first questions are asked."""
AWKWARD = (
    "test/elementary_mathematics/70",  # choices that end in white space
    "test/college_mathematics/9",  # a choice that begins with white space
    "test/high_school_physics/99",  # equal choices
)


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return EmbeddedModel(dtype="float32").load(torch.device("cpu"))


def chosen(data: QuestionSet) -> dict[str, list[Question]]:
    """Return the questions that are asked, by subject."""
    found: dict[str, list[Question]] = defaultdict(list)
    for subject, count in FIRST:
        found[subject] += [q for q in data.questions if q.subject == subject][:count]
    for question in data.questions:
        if question.id in AWKWARD:
            found[question.subject].append(question)
    return found


@pytest.mark.parametrize("shots", [0, 5])
def test_texts_scores_and_accuracies_are_lm_evals(loaded: LoadedModel, shots: int) -> None:
    data = HubData().questions()
    # Texts of many tokens: the error of a float32 log-softmax would add up to 1e-4 nat.
    theirs = hflm(loaded, 8192, softmax_dtype="float64")
    for subject, asked in chosen(data).items():
        task = task_of("continuation", asked, data.examples[subject], shots)
        expected = {sample["doc"]["id"]: sample for sample in samples_of(theirs, task)}
        own = replace(data, questions=tuple(asked))
        ours = MMLU(
            data=SimpleNamespace(questions=lambda own=own: own), answer=Cloze(), shots=shots
        )
        samples = ours.run(LocalEngine(loaded)).samples
        assert [sample.id for sample in samples] == [*expected]
        for sample in samples:
            scores, other = sample.scores, expected[sample.id]
            found = [scores[f"log_prob_{letter}"] for letter in "ABCD"]
            assert found == pytest.approx([reply[0] for reply in other["filtered_resps"]], abs=1e-4)
            assert scores["correct"] == other["acc_norm"]
            assert scores["correct_unnormalized"] == other["acc"]
