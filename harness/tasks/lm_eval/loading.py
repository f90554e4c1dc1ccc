"""Find lm-eval's tasks by name, and load their data."""

import difflib
import os
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from huggingface_hub.utils import logging

from harness import extras
from harness.errors import ConfigError, DataError

LMEvalTasks = Mapping[str, dict[str, Any]]
"""lm-eval's own form: `tasks` and `groups`, each by name."""


def load_tasks(
    names: tuple[str, ...], include_path: str | None, shots: int | None, seed: int
) -> LMEvalTasks:
    """Return tasks with their data, ready to run.

    Args:
        names: Names of tasks, groups or tags.
        include_path: Folder with further task files.
        shots: Examples before each document; None is each task's own number.
        seed: Seed of the draw of examples.

    Raises:
        ConfigError: A name is unknown, two of them hold the same task, or lm-eval is missing.
        DataError: A task's file has a mistake, or its data is not available.
    """
    manager = _manager(names, include_path)
    _check_names(names, manager)
    found: LMEvalTasks = {"tasks": {}, "groups": {}}
    for name in names:
        part = _load_one(manager, name)
        if twice := found["tasks"].keys() & part["tasks"].keys():
            raise ConfigError(
                f"task.tasks must hold each task once, got {min(twice)} twice; leave {name} out"
            )
        for kind, loaded in found.items():
            loaded |= part[kind]
    for task in found["tasks"].values():
        own = task.get_config("num_fewshot")
        # lm-eval's own rule: a task that fixes 0 keeps it, and a task without a number has 0.
        task.set_config("num_fewshot", own or 0 if shots is None or own == 0 else shots)
        task.set_fewshot_seed(seed)
    return found


def _check_names(names: tuple[str, ...], manager: Any) -> None:
    for name in names:
        if name not in manager.task_index:
            close = ", ".join(difflib.get_close_matches(name, manager.all_tasks, n=5))
            hint = f"did you mean {close}?" if close else "`lm-eval ls tasks` lists them"
            raise ConfigError(
                f"task.tasks must name tasks, groups or tags of lm-eval, got {name}; {hint}"
            )


def _manager(names: tuple[str, ...], include_path: str | None) -> Any:
    """Return lm-eval's index of tasks: of the user's folder alone if that has all names.

    A group of the folder may have members elsewhere.
    """
    with extras.needed("lmeval", by="task=lm_eval"):
        from lm_eval.tasks import TaskManager  # noqa: PLC0415 - takes a second, and is optional

    if include_path is not None:
        own = TaskManager(include_path=include_path, include_defaults=False)
        entries = (entry.cfg or {} for entry in own.task_index.values())
        inner = (member for entry in entries for member in _members(entry))
        if {*names, *inner} <= own.task_index.keys():
            return own
    return _all_tasks(include_path)


def _members(entry: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names that a group's file has: `NAME`, `{task: NAME}` or `{group: NAME}`.

    `{group: NAME, task: [...]}` is a group inside it, whose own members are yielded instead.
    """
    listed = entry.get("task")
    for member in listed if isinstance(listed, list) else ():
        if not isinstance(member, Mapping):
            yield str(member)
        elif isinstance(member.get("task"), list):
            yield from _members(member)
        else:
            yield str(member.get("task", member.get("group")))


@lru_cache(maxsize=1)
def _all_tasks(include_path: str | None) -> Any:
    """Return the index of lm-eval's own tasks and a folder's: 14,000 files, read in 10 s."""
    from lm_eval.tasks import TaskManager  # noqa: PLC0415 - takes a second

    return TaskManager(include_path=include_path)


def _load_one(manager: Any, name: str) -> LMEvalTasks:
    """Load the tasks behind one name.

    Raises:
        DataError: Their files have a mistake, or their data is not available.
    """
    # The hub logs every failed attempt twice; the error below says it once.
    if "HF_HUB_VERBOSITY" not in os.environ:
        logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        part: LMEvalTasks = manager.load([name])
    except Exception as reason:  # of templates and functions in a task file, of the hub
        raise DataError(
            f"lm-eval's task {name} must load with its data, got {type(reason).__name__}: "
            f"{reason}; correct the task file, connect to the hub once, so that its cache is "
            "filled, or give task.include_path=FOLDER with a task file that reads local data"
        ) from reason
    return part
