r"""Write a conversation as one text, with the chat template of a tokenizer.

A chat template is a Jinja program in the files of a tokenizer. It puts the special tokens of a
model around each message:

    [{"role": "user", "content": "Why?"}]  ->  "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>..."

Some templates take no system message: Gemma's raises an error, others leave the message out. As in
lm-eval 0.4.13 (`HFLM.apply_chat_template`), a template that raises an error gets the conversation
without its system message. `takes_system` tells beforehand whether a template writes one.
"""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerFast

from harness.errors import ConfigError

Messages: TypeAlias = Sequence[Mapping[str, str]]
"""A conversation: `role` (system, user or assistant) and `content` of each message."""
PROBE = "You answer in one word."
"""A system message whose text no template contains by itself."""


def template_of(tokenizer: PreTrainedTokenizerFast, model: str) -> str:
    """Return the chat template of a tokenizer, as Jinja source.

    Args:
        tokenizer: The tokenizer.
        model: Name of the model, for messages of errors.

    Raises:
        ConfigError: It has none, or several without a default.
    """
    try:
        return str(tokenizer.get_chat_template())
    except ValueError as reason:
        raise ConfigError(
            f"the tokenizer of {model} must have a chat template for task.chat_template=true, got "
            f"none or several without a default; leave task.chat_template out, or use a model that "
            "was trained on conversations"
        ) from reason


def render(
    tokenizer: PreTrainedTokenizerFast,
    messages: Messages,
    model: str,
    *,
    add_generation_prompt: bool = True,
) -> str:
    """Return a conversation as text.

    Args:
        tokenizer: The tokenizer.
        messages: The conversation.
        model: Name of the model, for messages of errors.
        add_generation_prompt: Begin an answer of the assistant behind the last message. If false,
            the last message is the beginning of an answer, and is not closed.

    Raises:
        ConfigError: There is no template, or it rejects the conversation.
    """
    template_of(tokenizer, model)
    without = [message for message in messages if message["role"] != "system"]
    try:
        try:
            return _apply(tokenizer, messages, add_generation_prompt)
        except TemplateError:
            return _apply(tokenizer, without, add_generation_prompt)
    except Exception as reason:  # a template is a program, and may raise anything
        raise ConfigError(
            f"the chat template of {model} must take the conversation of a task, got "
            f"{type(reason).__name__}: {reason}; change task.fewshot_as_turns, or leave "
            "task.chat_template out"
        ) from reason


def takes_system(tokenizer: PreTrainedTokenizerFast, model: str) -> bool:
    """Return whether the chat template writes a system message.

    Raises:
        ConfigError: There is no template, or it rejects the conversation.
    """
    messages = [{"role": "system", "content": PROBE}, {"role": "user", "content": "Hello"}]
    return PROBE in render(tokenizer, messages, model)


def _apply(
    tokenizer: PreTrainedTokenizerFast, messages: Messages, add_generation_prompt: bool
) -> str:
    """Return what the chat template writes; its errors are not handled."""
    return str(
        tokenizer.apply_chat_template(
            [dict(message) for message in messages],
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )
    )
