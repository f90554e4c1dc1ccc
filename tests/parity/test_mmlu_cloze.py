"""The cloze form of MMLU is lm-eval's `mmlu_continuation`: prompts, tokens, scores, both accuracies.

Both sides run the tiny model in float32 over embedded questions, and over questions whose choices
are awkward: one begins another, two are equal, white space surrounds them.
"""

import itertools
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from chat_templates import TEMPLATES
from lm_eval.models.huggingface import HFLM
from lm_eval_mmlu import samples_of, task_of
from lm_eval_model import hflm
from plain_engine import PlainEngine

from harness.data.embedded import EmbeddedData
from harness.data.source import Question
from harness.engines.base import Engine
from harness.engines.lm_eval import EngineLM
from harness.engines.local.engine import LocalEngine
from harness.models.loaded import LoadedModel
from harness.models.sources.tiny import TinyModel
from harness.tasks.mmlu.cloze import Cloze
from harness.tasks.mmlu.mmlu import MMLU

SUBJECT = "high_school_biology"
GIVEN = EmbeddedData().questions()
SHOWN = tuple(replace(q, subject=SUBJECT) for q in GIVEN.questions[:5])
AWKWARD = [
    ("5", "50", "500", "5"),
    ("A ", " A", "A", "  an A  "),
    ("café", "naïve 中文", "\n", "x\ny"),
    ("[1, 2]", "{'a': 1}", '"quoted"', "it's {{ braced }}"),
]
ASKED = (
    *(replace(q, subject=SUBJECT) for q in GIVEN.questions[5:11]),
    *(
        Question(
            id=f"own/{n}", subject=SUBJECT, question=f" Which {n}?\n", choices=texts, answer=n % 4
        )
        for n, texts in enumerate(AWKWARD, 2)
    ),
)
CHOSEN = replace(GIVEN, questions=ASKED, examples={SUBJECT: SHOWN}, default_shots=5, max_shots=5)
DATA = SimpleNamespace(questions=lambda: CHOSEN)


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return TinyModel(seed=1).load(torch.device("cpu"))


@pytest.fixture(scope="module")
def theirs(loaded: LoadedModel) -> HFLM:
    return hflm(loaded, 8192)


def check_against_lm_eval(engine: Engine, theirs: Any, shots: int, **chat: Any) -> None:
    options = {"template": "chat_template", "system": "system", "turns": "fewshot_as_turns"}
    task = MMLU(
        data=DATA,
        answer=Cloze(),
        shots=shots,
        **{options[name]: value for name, value in chat.items()},
    )
    expected = samples_of(theirs, task_of("continuation", ASKED, SHOWN, shots), **chat)
    encoded = {each.question.id: each for each in task._encoded(engine)}
    result = task.run(engine)
    ours = {sample.id: sample.scores for sample in result.samples}
    assert len(expected) == len(ours) == len(ASKED)
    for sample in expected:
        scores = ours[sample["doc"]["id"]]
        assert encoded[sample["doc"]["id"]].text == sample["arguments"][0][0]
        found = [scores[f"log_prob_{letter}"] for letter in "ABCD"]
        # HFLM returns a sum in float32: one of 1,340 nat is rounded to steps of 1.2e-4.
        wanted = [reply[0] for reply in sample["filtered_resps"]]
        assert found == pytest.approx(wanted, rel=2**-22, abs=1e-4)
        assert (scores["correct_unnormalized"], scores["correct"]) == (
            sample["acc"],
            sample["acc_norm"],
        )
    metrics = {metric.name: metric.value for metric in result.metrics}
    for name, theirs_name in (("accuracy", "acc_norm"), ("accuracy_unnormalized", "acc")):
        assert metrics[name] == sum(s[theirs_name] for s in expected) / len(expected)


@pytest.mark.parametrize("shots", [0, 5])
def test_prompts_scores_and_accuracies_are_those_of_lm_eval(
    loaded: LoadedModel, theirs: HFLM, shots: int
) -> None:
    loaded.kept.clear()
    check_against_lm_eval(LocalEngine(loaded), theirs, shots)


def test_requests_are_those_that_lm_eval_makes(loaded: LoadedModel) -> None:
    """The same engine, asked by lm-eval and by the task: equal to the bit."""
    engine = PlainEngine(loaded)
    samples = samples_of(EngineLM(engine, 8192), task_of("continuation", ASKED, SHOWN, 5))
    ours = {s.id: s.scores for s in MMLU(data=DATA, answer=Cloze()).run(engine).samples}
    for sample in samples:
        found = [ours[sample["doc"]["id"]][f"log_prob_{letter}"] for letter in "ABCD"]
        assert found == [reply[0] for reply in sample["filtered_resps"]]


def test_conversations_are_those_of_lm_eval() -> None:
    loaded = TinyModel(seed=1).load(torch.device("cpu"))
    loaded.tokenizer.chat_template = TEMPLATES["chatml"]
    theirs = hflm(loaded, 8192)
    for shots, system, turns in itertools.product([0, 5], [None, "Be brief."], [True, False]):
        check_against_lm_eval(
            PlainEngine(loaded), theirs, shots, template=True, system=system, turns=turns
        )
