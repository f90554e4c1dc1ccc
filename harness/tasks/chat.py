"""Prompts as conversations: chat template, system prompt, and solved examples as turns.

As in lm-eval 0.4.13, a prompt is first a list of messages:

    system       the system prompt and the description of the task, a blank line between them
    user         a question       } once for each solved example
    assistant    its answer       }
    user         the question that is asked

`Chat` makes a text of the messages:

    template=False    their contents in a row, with the delimiters of the task between them
    template=True     the chat template of the system message and of one user message, which has
                      the contents of all others
    as_turns=True     the chat template of all messages

The texts equal those of lm-eval byte for byte (tests/parity/test_chat_prompts.py).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from harness.engines.base import Engine
from harness.errors import ConfigError

FEWSHOT_DELIMITER = "\n\n"
"""What lm-eval puts after a solved example, and between system prompt and description."""

TODAY = "strftime_now"
"""The function by which a chat template asks for the date, as that of Llama 3.2 does."""


class Turn(NamedTuple):
    """A message of a prompt."""

    role: str
    """`system`, `user` or `assistant`."""
    content: str
    delimiter: str = ""
    """The text that follows it in a message or prompt made of several messages."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Chat:
    """Whether and how prompts are conversations."""

    template: bool = False
    """Apply the chat template of the tokenizer."""
    system: str | None = None
    """System prompt; None for no system prompt."""
    as_turns: bool = False
    """Write each solved example as two turns of the conversation, not all in one message."""

    def check_options(self) -> None:
        """Check that the options go together.

        Raises:
            ValueError: `as_turns` without a template, or an empty system prompt.
        """
        if self.as_turns and not self.template:
            raise ValueError("fewshot_as_turns must be false without chat_template, got true")
        if self.system == "":
            raise ValueError("system must be a text or null, got an empty one")

    def check(self, engine: Engine) -> None:
        """Check that the engine's tokenizer has a template, if asked for, and a system role.

        Raises:
            ConfigError: There is no template, or it takes no system prompt.
        """
        if self.template and not engine.tokenizer.takes_system and self.system is not None:
            raise ConfigError(
                f"task.system must be null with {engine.name}, whose chat template has no system "
                f"role, got {self.system!r}; leave task.system out, or write its text into the "
                "question"
            )

    def warnings(self, engine: Engine, descriptions: int) -> tuple[str, ...]:
        """Return warnings about what a template leaves out, as in lm-eval, or writes by itself.

        Args:
            engine: Its tokenizer has the template.
            descriptions: Number of tasks that have a description.
        """
        found = []
        if self.template and descriptions and not engine.tokenizer.takes_system:
            found.append(
                f"the chat template of {engine.name} has no system role: the description before "
                "the questions is left out, as in lm-eval"
            )
        if self.template and TODAY in engine.tokenizer.chat_template:
            found.append(
                f"the chat template of {engine.name} may write the date ({TODAY}): prompts of "
                "another day differ, and reports do not compare such runs"
            )
        return tuple(found)

    def protocol(self, engine: Engine) -> str:
        """Return the options as parts of a protocol line; empty for `PLAIN`."""
        parts = []
        if self.template:
            parts.append(f"chat={_short_hash(engine.tokenizer.chat_template)}")
            parts.append(f"examples={'turns' if self.as_turns else 'one-message'}")
        if self.system is not None:
            parts.append(f"system={_short_hash(self.system)}")
        return "".join(f"|{part}" for part in parts)

    def render(self, engine: Engine, description: str, turns: Sequence[Turn]) -> str:
        """Return a prompt.

        Args:
            engine: Its tokenizer has the template.
            description: The description of the task; may be empty.
            turns: Messages of solved examples and of the question, which has no delimiter.

        Raises:
            ConfigError: There is no template, or it rejects the conversation.
        """
        opening = system_message(self.system, description)
        system = [Turn("system", opening)] if opening else []
        if not self.template:
            return message_texts([*system, *turns])
        if not self.as_turns:
            turns = [Turn("user", message_texts(turns))]
        messages = [{"role": turn.role, "content": turn.content} for turn in (*system, *turns)]
        return engine.tokenizer.chat(messages)


PLAIN = Chat()
"""Prompts without a template and without a system prompt."""


def message_texts(turns: Sequence[Turn]) -> str:
    """Return messages as one text, with their delimiters."""
    return "".join(turn.content + turn.delimiter for turn in turns)


def system_message(system: str | None, description: str) -> str:
    """Return system prompt and description; a blank line parts them if no white space does."""
    if not system or not description:
        return system or description
    touches = system[-1].isspace() or description[0].isspace()
    return system + ("" if touches else FEWSHOT_DELIMITER) + description


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
