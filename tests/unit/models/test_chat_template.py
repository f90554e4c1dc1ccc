"""Chat templates: what they take, and what is said of those that do not."""

import pytest
from chat_templates import TEMPLATES
from transformers import PreTrainedTokenizerFast

from harness.errors import ConfigError
from harness.models.chat_template import render, takes_system, template_of
from harness.models.sources.tiny import byte_tokenizer

ASKED = [{"role": "user", "content": "Why?"}]
SYSTEM = {"role": "system", "content": "Be brief."}
IGNORES = "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"


def with_template(text: str | dict[str, str] | None) -> PreTrainedTokenizerFast:
    found = byte_tokenizer()
    found.add_special_tokens({"bos_token": "<bos>"})
    found.chat_template = text
    return found


def test_conversation_in_chatml_by_hand() -> None:
    found = render(with_template(TEMPLATES["chatml"]), [SYSTEM, *ASKED], "tiny")
    assert found == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_answer_that_is_begun_stays_open() -> None:
    messages = [*ASKED, {"role": "assistant", "content": "Because"}]
    text = render(with_template(TEMPLATES["chatml"]), messages, "tiny", add_generation_prompt=False)
    assert text.endswith("assistant\nBecause")


@pytest.mark.parametrize("name", [*TEMPLATES, "ignores"])
def test_only_a_template_that_writes_a_system_message_takes_one(name: str) -> None:
    tokenizer = with_template(TEMPLATES.get(name, IGNORES))
    takes = name not in ("gemma", "ignores")
    assert takes_system(tokenizer, "tiny") == takes
    text = render(tokenizer, [SYSTEM, *ASKED], "tiny")
    assert "Why?" in text
    assert ("Be brief." in text) == takes


@pytest.mark.parametrize("template", [None, {"tools": "x", "rag": "y"}])
def test_tokenizer_without_a_template_is_named(template: dict[str, str] | None) -> None:
    with pytest.raises(ConfigError, match="tokenizer of tiny must have a chat template"):
        template_of(with_template(template), "tiny")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{{ none + 'x' }}", "TypeError: unsupported operand"),
        ("{{ 1 / 0 }}", "ZeroDivisionError: division by zero"),
        ("{{ messages[0].nope.deep }}", "UndefinedError: .* has no attribute 'nope'"),
        ("{% if %}", "TemplateSyntaxError: Expected an expression"),
    ],
)
def test_template_that_fails_is_told_with_its_reason(text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=rf"template of tiny must take .* got {reason}"):
        render(with_template(text), ASKED, "tiny")


def test_conversation_that_a_template_rejects_is_told_with_its_reason() -> None:
    with pytest.raises(ConfigError, match=r"roles must alternate.*task\.fewshot_as_turns"):
        render(with_template(TEMPLATES["gemma"]), [*ASKED, *ASKED], "tiny")
