"""What becomes of the messages of a prompt, by hand; tests/parity compares with lm-eval."""

import pytest
import torch
from chat_templates import TEMPLATES
from plain_engine import PlainEngine

from harness.errors import ConfigError
from harness.models.sources.tiny import TinyModel
from harness.tasks.chat import PLAIN, Chat, Turn, system_message

TURNS = [Turn("user", "1+1?", " "), Turn("assistant", "2", "\n\n"), Turn("user", "2+2?")]


def engine(template: str | None) -> PlainEngine:
    loaded = TinyModel().load(torch.device("cpu"))
    loaded.tokenizer.chat_template = template
    return PlainEngine(loaded)


def test_prompt_is_one_text_without_a_template() -> None:
    asked = engine(None)
    assert PLAIN.render(asked, "Sums.\n\n", TURNS) == "Sums.\n\n1+1? 2\n\n2+2?"
    assert Chat(system="Be brief.").render(asked, "", TURNS) == "Be brief.1+1? 2\n\n2+2?"
    assert PLAIN.protocol(asked) == ""


def test_examples_are_one_message_or_turns() -> None:
    asked = engine("{% for m in messages %}[{{ m.role }}:{{ m.content }}]{% endfor %}")
    one, turns = (Chat(template=True, as_turns=as_turns) for as_turns in (False, True))
    assert one.render(asked, "Sums.", TURNS) == "[system:Sums.][user:1+1? 2\n\n2+2?]"
    assert turns.render(asked, "", TURNS) == "[user:1+1?][assistant:2][user:2+2?]"


@pytest.mark.parametrize(
    ("system", "description", "text"),
    [
        (None, "", ""),
        ("Be brief.", "", "Be brief."),
        (None, "Sums.\n", "Sums.\n"),
        ("Be brief.", "Sums.", "Be brief.\n\nSums."),
        ("Be brief.\n", "Sums.", "Be brief.\nSums."),
        ("Be brief.", " Sums.", "Be brief. Sums."),
    ],
)
def test_system_prompt_stands_before_the_description(
    system: str | None, description: str, text: str
) -> None:
    assert system_message(system, description) == text


def test_protocol_tells_template_examples_and_system_prompt() -> None:
    asked, other = engine(TEMPLATES["chatml"]), engine(TEMPLATES["phi"])
    chats = [
        Chat(template=True),
        Chat(template=True, as_turns=True),
        Chat(template=True, system="Be brief."),
        Chat(template=True, system="Be long."),
    ]
    lines = [chat.protocol(asked) for chat in chats] + [chats[0].protocol(other)]
    assert len(set(lines)) == len(lines)
    assert lines[1].endswith("|examples=turns")


def test_template_without_a_system_role_takes_no_system_prompt() -> None:
    gemma = engine(TEMPLATES["gemma"])
    with pytest.raises(
        ConfigError, match=r"task\.system must be null with tiny.*leave task\.system"
    ):
        Chat(template=True, system="Be brief.").check(gemma)
    Chat(template=True).check(gemma)
    Chat(system="Be brief.").check(gemma)  # it is text there
    assert "the description" in Chat(template=True).warnings(gemma, 1)[0]
    assert Chat(template=True).warnings(gemma, 0) == ()


def test_model_without_a_template_is_a_configuration_error() -> None:
    with pytest.raises(
        ConfigError, match=r"must have a chat template for task\.chat_template=true"
    ):
        Chat(template=True).check(engine(None))


@pytest.mark.parametrize(
    ("chat", "message"),
    [(Chat(as_turns=True), "without chat_template"), (Chat(system=""), "system must be a text")],
)
def test_options_that_do_not_go_together_are_refused(chat: Chat, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        chat.check_options()


@pytest.mark.parametrize("template", [True, False])
def test_template_that_writes_the_date_is_told(template: bool) -> None:
    dated = engine("{{ strftime_now('%d %b %Y') }}{{ messages[0].content }}")
    found = Chat(template=template).warnings(dated, 1)
    assert [text for text in found if "may write the date (strftime_now)" in text] == [
        "the chat template of tiny may write the date (strftime_now): prompts of another day "
        "differ, and reports do not compare such runs"
    ] * template
