"""What identifies a run of lm-eval's tasks: versions, and hashes of tasks, documents and code."""

import hashlib
import inspect
import itertools
import json
import re
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from harness.tasks.lm_eval.loading import LMEvalTasks

ORIGIN_KEYS = ("dataset_path", "dataset_name", "dataset_kwargs", "metadata")
"""Keys of a task file that say where its data came from. The data itself is hashed."""


def task_facts(
    found: LMEvalTasks, names: Sequence[str], limit: int | None, include_path: str | None
) -> dict[str, Any]:
    """Return what identifies tasks, documents and examples.

    Args:
        found: The loaded tasks.
        names: The names that were asked for.
        limit: Documents of each task; None is all.
        include_path: Folder of the user's own task files.
    """
    tasks = dict(sorted(found["tasks"].items()))
    documents = {
        name: list(itertools.islice(task.eval_docs, limit)) for name, task in tasks.items()
    }
    shots = {name: task.get_config("num_fewshot") for name, task in tasks.items()}
    examples = [task.sampler.df for name, task in tasks.items() if shots[name]]
    return {
        "name": ", ".join(names),
        "lm_eval": version("lm_eval"),
        "versions": {name: task.VERSION for name, task in tasks.items()},
        "num_shots": shots,
        "num_documents": {name: len(docs) for name, docs in documents.items()},
        "documents_sha256": sha256_of(_as_json(doc) for docs in documents.values() for doc in docs),
        "examples_sha256": sha256_of(_as_json(doc) for docs in examples for doc in docs),
        "tasks_sha256": sha256_of(_as_json(_definition(task)) for task in tasks.values()),
    } | _own_code(include_path)


def _own_code(include_path: str | None) -> dict[str, str]:
    """Return the hash of the Python files in the user's folder.

    A task's functions are hashed with the task, but what they call may change while they do not.
    """
    files = sorted(Path(include_path).rglob("*.py")) if include_path else []
    code = (file.read_text(encoding="utf-8", errors="replace") for file in files)
    return {"code_sha256": sha256_of(code)} if files else {}


def _definition(task: Any) -> dict[str, Any]:
    """Return the settings in a task file without the origin of its data."""
    config: dict[str, Any] = task.dump_config()
    return {key: value for key, value in config.items() if key not in ORIGIN_KEYS}


def _as_json(value: Any) -> str:
    """Return a value as JSON that is equal in every process; functions become their source."""

    def source(part: Any) -> str:
        try:
            return inspect.getsource(part)
        except (TypeError, OSError):
            return str(part)

    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=source)
    return re.sub(r" at 0x[0-9a-f]+", "", text)  # addresses differ between processes


def sha256_of(texts: Iterable[str]) -> str:
    """Return the SHA-256 over texts, each ended by a zero byte."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode() + b"\0")
    return digest.hexdigest()
