"""Words of earlier versions: keys with a new name are rewritten, tasks that are gone explained."""

import shlex
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from harness.errors import ConfigError
from harness.redaction import redacted_arguments

MOVED_KEYS: Mapping[str, str] = MappingProxyType({"task.batch_tokens": "engine.batch_tokens"})
"""Key in earlier versions -> key today, with the same values."""
TASKS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "mmlu_vllm": ("task=mmlu_generate", "engine=vllm"),
        "throughput_vllm": ("task=throughput", "engine=vllm"),
    }
)
"""Task of earlier versions, whose name has an engine -> the words of today."""
ENGINE_OF_TASK = "task.engine."
"""Beginning of the keys of an engine in earlier versions."""


def renewed(word: str) -> str:
    """Return a word with the key of today: `engine.batch_tokens=8` for `task.batch_tokens=8`."""
    key, equals, value = word.partition("=")
    sign = key[: len(key) - len(key.lstrip("+~"))]
    return f"{sign}{MOVED_KEYS.get(key.removeprefix(sign), key.removeprefix(sign))}{equals}{value}"


def check_tasks(words: Sequence[str]) -> None:
    """Check that no word names a task that has become a task and an engine.

    Raises:
        ConfigError: A word does; the message has the words of today.
    """
    for word in words:
        key, _, value = word.partition("=")
        if key == "task" and (old := [name for name in value.split(",") if name in TASKS]):
            raise ConfigError(
                f"task must be one that conf/task has, got {old[0]}, which is a task on another "
                f"engine now; type {shlex.join(redacted_arguments(_of_today(words, old[0])))}"
            )


def _of_today(words: Sequence[str], old: str) -> list[str]:
    """Return the words of today for a command line with a task of earlier versions."""
    others = [word for word in words if not word.startswith("task=")]
    return [*TASKS[old], *(word.replace(ENGINE_OF_TASK, "engine.", 1) for word in others)]
