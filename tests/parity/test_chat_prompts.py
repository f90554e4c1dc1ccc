"""Conversations are to the byte those of lm-eval's own code, and so are tokens and scores.

lm-eval builds the prompts of its own MMLU files (`ConfigurableTask.fewshot_context`) and writes
them with `HFLM.apply_chat_template`.
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
from plain_engine import PlainEngine
from tokenizers.processors import TemplateProcessing

from harness.data.embedded import EmbeddedData
from harness.engines.lm_eval import EngineLM
from harness.errors import ConfigError
from harness.models.loaded import LoadedModel
from harness.models.sources.tiny import TinyModel
from harness.tasks.mmlu.direct import Direct
from harness.tasks.mmlu.mmlu import MMLU

SUBJECT, SYSTEM = "anatomy", "You answer with one letter."
GIVEN = EmbeddedData().questions()
ASKED = tuple(q for q in GIVEN.questions if q.subject == SUBJECT)[:2]
SHOWN = tuple(replace(q, subject=SUBJECT) for q in GIVEN.questions if q.subject != SUBJECT)[:5]
CHOSEN = replace(GIVEN, questions=ASKED, examples={SUBJECT: SHOWN}, default_shots=5, max_shots=5)
DATA = SimpleNamespace(questions=lambda: CHOSEN)
OPTIONS = [(True, True), (True, False), (False, False)]
"""Chat template, and solved examples as turns."""


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    """A tiny model whose tokenizer puts a BOS before a text, which some templates write too."""
    found = TinyModel(seed=1).load(torch.device("cpu"))
    found.tokenizer.add_special_tokens(
        {"bos_token": "<bos>", "additional_special_tokens": ["<|im_start|>", "<|im_end|>"]}
    )
    found.module.resize_token_embeddings(len(found.tokenizer))
    found.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", found.tokenizer.bos_token_id)]
    )
    return found


@pytest.fixture
def engine(loaded: LoadedModel, request: pytest.FixtureRequest) -> PlainEngine:
    """An engine for the model with the template that a test names."""
    loaded.tokenizer.chat_template = TEMPLATES[request.param]
    loaded.kept.clear()
    return PlainEngine(loaded)


@pytest.fixture(scope="module")
def theirs(loaded: LoadedModel) -> HFLM:
    return HFLM(pretrained=loaded.module, tokenizer=loaded.tokenizer, softmax_dtype="float32")


def their_results(
    model: Any, shots: int, system: str | None, *, template: bool, turns: bool
) -> list[dict[str, Any]]:
    """Return lm-eval's samples, one a question."""
    task = task_of("default", ASKED, SHOWN, shots)
    return samples_of(model, task, system, template=template, turns=turns)


@pytest.mark.parametrize("engine", TEMPLATES, indirect=True)
def test_prompts_tokens_and_scores_are_those_of_lm_eval(engine: PlainEngine, theirs: HFLM) -> None:
    for shots, system, (template, turns) in itertools.product([0, 5], [None, SYSTEM], OPTIONS):
        check_against_lm_eval(engine, theirs, shots, system, template=template, turns=turns)


def check_against_lm_eval(
    engine: PlainEngine,
    theirs: HFLM,
    shots: int,
    system: str | None,
    *,
    template: bool,
    turns: bool,
) -> None:
    task = MMLU(
        data=DATA,
        answer=Direct(),
        subjects=(SUBJECT,),
        shots=shots,
        chat_template=template,
        system=system,
        fewshot_as_turns=turns,
    )
    if template and system and not engine.tokenizer.takes_system:
        with pytest.raises(ConfigError, match=r"task\.system must be null with tiny"):
            task.run(engine)
        return
    expected = their_results(theirs, shots, system, template=template, turns=turns)
    encoded = {each.question.id: each for each in task._encoded(engine)}
    result = task.run(engine)
    scores = {sample.id: sample.scores for sample in result.samples}
    for sample in expected:
        each = encoded[sample["doc"]["id"]]
        assert each.text == sample["arguments"][0][0]
        assert [*each.ids] == theirs.tok_encode(each.text)
        found = [scores[each.question.id][f"log_prob_{letter}"] for letter in "ABCD"]
        assert found == pytest.approx([reply[0] for reply in sample["filtered_resps"]], abs=1e-4)
    described = template and not engine.tokenizer.takes_system
    assert any("description" in warning for warning in result.warnings) == described


@pytest.mark.parametrize("engine", TEMPLATES, indirect=True)
def test_client_writes_conversations_as_lm_eval(engine: PlainEngine, theirs: HFLM) -> None:
    client = EngineLM(engine, 64)
    begun = [{"role": "user", "content": "Why? "}, {"role": "assistant", "content": "Because"}]
    spoken = [{"role": "system", "content": SYSTEM}, begun[0]]
    for messages, open_end in ((spoken, True), (begun, False), (begun[:1], True)):
        found = client.apply_chat_template(messages, add_generation_prompt=open_end)
        assert found == theirs.apply_chat_template(messages, add_generation_prompt=open_end)
        assert found.endswith("Because") or open_end


def test_scores_through_lm_eval_are_those_of_the_task(loaded: LoadedModel) -> None:
    loaded.tokenizer.chat_template = TEMPLATES["chatml"]
    loaded.kept.clear()
    engine = PlainEngine(loaded)
    task = MMLU(data=DATA, answer=Direct(), subjects=(SUBJECT,), chat_template=True, system=SYSTEM)
    ours = {sample.id: sample.scores["log_prob_B"] for sample in task.run(engine).samples}
    samples = their_results(EngineLM(engine, 8192), 5, SYSTEM, template=True, turns=False)
    for sample in samples:
        # The same requests: equal to the bit.
        assert sample["filtered_resps"][1][0] == ours[sample["doc"]["id"]]
