"""Prompts to the byte those of lm-evaluation-harness, and which questions are asked."""

import random
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType

import jinja2
import pytest
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from harness.data.embedded import EmbeddedData
from harness.data.source import Question, QuestionSet
from harness.engines.local.engine import LocalEngine
from harness.errors import ConfigError, DataError
from harness.models.loaded import LoadedModel
from harness.tasks.mmlu.direct import Direct
from harness.tasks.mmlu.mmlu import MMLU
from harness.tasks.mmlu.prompt import answer_ids, encode, prompt
from harness.tasks.mmlu.questions import select

LM_EVAL = Path(find_spec("lm_eval").submodule_search_locations[0], "tasks/mmlu/default")
TEMPLATE = yaml.safe_load((LM_EVAL / "_default_template_yaml").read_text(encoding="utf-8"))


def rendered(question: Question, shots: tuple[Question, ...]) -> str:
    """Return the prompt as lm-eval's own files say: description, solved documents, document."""
    file = LM_EVAL / f"mmlu_{question.subject}.yaml"
    task = yaml.safe_load(file.read_text(encoding="utf-8"))
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined)  # noqa: S701 - plain text
    template = environment.from_string(TEMPLATE["doc_to_text"])
    text = task["description"]
    for shot in shots:
        answer = TEMPLATE["doc_to_choice"][shot.answer]
        text += template.render(question=shot.question, choices=shot.choices)
        # lm-eval's own defaults: target_delimiter " " and fewshot_delimiter "\n\n".
        text += f" {answer}\n\n"
    return text + template.render(question=question.question, choices=question.choices)


@pytest.mark.parametrize("count", [0, 1, 4])
def test_prompts_of_every_subject_equal_lm_eval_byte_for_byte(
    embedded: EmbeddedData, count: int
) -> None:
    data = embedded.questions()
    for question in {q.subject: q for q in data.questions}.values():
        shots = data.shots(question, count)
        assert prompt(question, shots).encode() == rendered(question, shots).encode()


def test_prompt_of_a_small_question_by_hand() -> None:
    asked = Question(
        id="t/1", subject="us_law", question=" Why?\n", choices=tuple("wxyz"), answer=0
    )
    shot = Question(id="d/1", subject="us_law", question="How?", choices=tuple("1234"), answer=3)
    assert prompt(asked, (shot,)) == (
        "The following are multiple choice questions (with answers) about us law.\n\n"
        "How?\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer: D\n\n"
        "Why?\nA. w\nB. x\nC. y\nD. z\nAnswer:"
    )


def questions(count: int = 40) -> QuestionSet:
    """Return questions of four subjects in turn, each subject with five examples."""
    subjects = ("law", "art", "math", "zoo")

    def make(prefix: str, i: int, subject: str) -> Question:
        choices = (f"{i}", "b", "c", "d")
        return Question(
            id=f"{prefix}/{subject}/{i}",
            subject=subject,
            question=f"Q{i}",
            choices=choices,
            answer=0,
        )

    return QuestionSet(
        name="fixed",
        questions=tuple(make("test", i, subjects[i % 4]) for i in range(count)),
        examples=MappingProxyType(
            {s: tuple(make("dev", i, s) for i in range(5)) for s in subjects}
        ),
        default_shots=5,
        max_shots=5,
    )


def test_everything_is_asked_without_a_limit() -> None:
    assert select(questions(), None, None, 42) == questions().questions


def test_draw_is_deterministic_without_repetition_and_in_the_order_of_the_data() -> None:
    drawn = select(questions(), None, 15, 42)
    assert drawn == select(questions(), None, 15, 42)
    indices = [questions().questions.index(question) for question in drawn]
    assert indices == sorted(set(indices))
    assert len(indices) == 15
    assert drawn != select(questions(), None, 15, 43)


def test_draw_is_that_of_python_s_own_generator() -> None:
    expected = sorted(random.Random(42).sample(range(40), 10))  # noqa: S311
    assert select(questions(), None, 10, 42) == tuple(questions().questions[i] for i in expected)


def test_draw_leaves_the_global_generator_alone() -> None:
    state = random.getstate()
    select(questions(), None, 10, 42)
    assert random.getstate() == state


def test_draw_does_not_depend_on_global_seeds() -> None:
    first = select(questions(), None, 10, 42)
    random.seed(99)
    assert select(questions(), None, 10, 42) == first


def test_subjects_select_theirs_in_order() -> None:
    drawn = select(questions(), ("zoo", "art"), None, 42)
    assert [question.subject for question in drawn] == ["art", "zoo"] * 10


def test_limit_draws_among_the_subjects() -> None:
    drawn = select(questions(), ("zoo",), 4, 42)
    assert len(drawn) == 4
    assert {question.subject for question in drawn} == {"zoo"}


def test_unknown_subject_is_refused_with_the_legal_ones() -> None:
    with pytest.raises(ConfigError, match="must be some of art, law, math, zoo; got lore"):
        select(questions(), ("law", "lore"), None, 42)


def test_limit_beyond_the_questions_is_refused() -> None:
    assert len(select(questions(), None, 40, 42)) == 40
    with pytest.raises(ConfigError, match="at most the 40 questions there are, got 41"):
        select(questions(), None, 41, 42)


def test_every_seed_and_answer_rule_sees_the_questions_of_the_configuration_alone(
    embedded: EmbeddedData,
) -> None:
    first = MMLU(data=embedded, answer=Direct(), limit=20)
    second = MMLU(data=embedded, answer=Direct(), limit=20, answers=("generate",))
    assert first.questions() == second.questions()
    assert first.data_facts() == second.data_facts()
    assert first.data_facts() != MMLU(data=embedded, answer=Direct(), limit=20, seed=1).data_facts()


def test_more_shots_than_the_data_has_are_refused(embedded: EmbeddedData) -> None:
    assert MMLU(data=embedded, answer=Direct()).num_shots() == 4
    assert MMLU(data=embedded, answer=Direct(), shots=2).num_shots() == 2
    with pytest.raises(
        ConfigError, match=r"task\.shots must be 0\.\.4 with lm-eval-mmlu-dev, got 5"
    ):
        MMLU(data=embedded, answer=Direct(), shots=5).num_shots()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shots": -1}, "shots must be >= 0"),
        ({"limit": 0}, "limit must be >= 1"),
        ({"subjects": ()}, "subjects must name at least one"),
        ({"answers": ()}, "answers must name at least one rule"),
        ({"answers": ("direct", "direct")}, "answers must name each rule once"),
    ],
)
def test_selections_that_cannot_be_meant_are_refused(
    embedded: EmbeddedData, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        MMLU(data=embedded, answer=Direct(), **changes)


def test_prompts_are_the_whole_text_in_tokens(tiny: LoadedModel, embedded: EmbeddedData) -> None:
    data = embedded.questions()
    items = encode(LocalEngine(tiny), data.questions[:3], data, 2)
    for item, question in zip(items, data.questions, strict=False):
        assert item.text == prompt(question, data.shots(question, 2))
        assert tiny.tokenizer.decode(item.ids) == item.text
        assert item.num_shots == 2


def test_prompt_longer_than_the_model_is_refused_and_never_cut(
    tiny: LoadedModel, embedded: EmbeddedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = embedded.questions()
    asked = [q for q in data.questions if q.subject == "anatomy"]
    lengths = {q.id: len(prompt(q, data.shots(q, 4)).encode()) for q in asked}
    longest = max(lengths, key=lambda name: lengths[name])
    monkeypatch.setattr(tiny.module.config, "max_position_embeddings", 300)
    with pytest.raises(DataError, match=rf"300 tokens tiny was made for, got 5 .* {longest} with"):
        encode(LocalEngine(tiny), asked, data, 4)


def test_prompt_of_exactly_the_length_of_the_model_is_asked(
    tiny: LoadedModel, embedded: EmbeddedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = embedded.questions()
    (item,) = encode(LocalEngine(tiny), data.questions[:1], data, 0)
    monkeypatch.setattr(tiny.module.config, "max_position_embeddings", len(item.ids))
    assert encode(LocalEngine(tiny), data.questions[:1], data, 0) == [item]


def test_answers_are_the_four_tokens_after_the_prompt(tiny: LoadedModel) -> None:
    found = answer_ids(LocalEngine(tiny), "Answer:")
    assert [tiny.tokenizer.decode(ids) for ids in found] == [" A", " B", " C", " D"]


def test_answers_of_two_tokens_are_refused(tiny: LoadedModel) -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    other = LoadedModel(
        module=tiny.module,
        tokenizer=PreTrainedTokenizerFast(tokenizer_object=tokenizer),
        name="bytes",
        dtype=tiny.dtype,
        device=tiny.device,
        fingerprint="",
    )
    with pytest.raises(DataError, match="must be one token after the prompt"):
        answer_ids(LocalEngine(other), "Answer:")
