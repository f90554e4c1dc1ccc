"""The identity of a run: a hash of its configuration, without Python paths.

A run is found on file by this hash, so the hash must not change when the code does. Four rules
keep it stable:

1. A component of this package is named by its class (`Integer`), not by its path: classes may move
   between modules. A test keeps class names unique in `conf/`. A component of another package keeps
   its path.
2. Keys that say where and how a run is made (`VOLATILE`) do not count. Of the device, only the type
   counts.
3. A field that a class got after its first records were filed does not count while it has the value
   in `ADDED_LATER`. All earlier runs did what this value says.
4. A field that a class lost counts as `LOST_LATER` says. The batch size of a task has become that
   of the engine. The engine of earlier runs (`FIRST_ENGINE`) does not count.

The identity of a record is computed from its configuration, so records of every age are found.
"""

import hashlib
import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from harness.redaction import redacted_tree

OWN_PACKAGE = "harness"
VOLATILE = ("force", "results_dir", "device", "track", "push")
"""Keys of a configuration that do not change what is measured."""
NO_CHAT = {"chat_template": False, "system": None, "fewshot_as_turns": False}
ADDED_LATER: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "Perplexity": {
            "bos": None,
            "batch_tokens": None,
            "segmentation": {"_target_": "DisjointWindows"},
        },
        "MMLU": {"answers": None, **NO_CHAT},
        "LMEval": NO_CHAT,
        "Local": {"batch_tokens": None},
        "VllmEngine": {
            "python": None,
            "tensor_parallel_size": 1,
            "pipeline_parallel_size": 1,
            "kv_cache_dtype": "auto",
            "max_num_seqs": None,
            "extra": {},
        },
        "Divergence": {"bos": None},
        "NoiseFloor": {"bos": None, "questions": None},
        "Parity": {"bos": None},
        "GgufModel": {"baseline": None, "attention": None},
        "HubModel": {"attention": None},
        "LocalModel": {"baseline": None, "attention": None},
        "EmbeddedModel": {"attention": None},
    }
)
"""Class -> field that it got after its first records were filed -> what runs did before."""
LOST_LATER: Mapping[str, Mapping[str, Any]] = MappingProxyType({"MMLU": {"batch_tokens": None}})
"""Class -> field that it had in earlier versions -> the value that stands for today's runs."""
FIRST_ENGINE: Mapping[str, Any] = MappingProxyType({"_target_": "Local"})
"""Canonical form of the engine of all runs before engines could be chosen. It does not count."""
BATCH_TOKENS = "batch_tokens"
"""A key of tasks in earlier versions, and of the engine today."""
RENAMED: Mapping[str, str] = MappingProxyType({"PositiveFloat": "UnsignedFloat"})
"""Name of a class in files of earlier versions -> its name today."""


def config_hash(config: Mapping[str, Any], device_type: str) -> str:
    """Return the SHA-256 of the canonical form of a configuration, as 64 hexadecimal digits.

    Args:
        config: The resolved configuration of a run, or of a record.
        device_type: `cpu` or `cuda`.
    """
    counted = {key: canonical(value) for key, value in config.items() if key not in VOLATILE}
    counted = _with_engine(counted)
    # Mask secrets: the access token does not change what a run measures.
    counted = redacted_tree(counted) | {"device_type": device_type}
    text = json.dumps(counted, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _with_engine(counted: Mapping[str, Any]) -> dict[str, Any]:
    """Return a canonical configuration whose engine has the batch size, and counts if it is new."""
    task, engine = counted.get("task"), counted.get("engine") or FIRST_ENGINE
    if isinstance(task, Mapping) and (size := task.get(BATCH_TOKENS)) is not None:
        engine = {**engine, BATCH_TOKENS: size}
        lost = LOST_LATER.get(str(task.get("_target_")), {})
        task = {**{key: value for key, value in task.items() if key != BATCH_TOKENS}, **lost}
    rest = {key: value for key, value in counted.items() if key not in ("engine", "task")}
    own = {} if engine == FIRST_ENGINE else {"engine": engine}
    return {**rest, **({"task": task} if "task" in counted else {}), **own}


def canonical(node: Any) -> Any:
    """Return a configuration by the rules 1 and 3: class names for paths, no fields added later."""
    if isinstance(node, Mapping):
        found = {key: canonical(value) for key, value in node.items()}
        if "_target_" not in found:
            return found
        name = found["_target_"] = class_name(found["_target_"])
        found = {**LOST_LATER.get(name, {}), **found}
        later = ADDED_LATER.get(name, {})
        return {
            key: value for key, value in found.items() if key not in later or value != later[key]
        }
    if isinstance(node, list | tuple):
        return [canonical(value) for value in node]
    return node


def class_name(target: Any) -> str:
    """Return the name of a component: its class in this package, its whole path in another one."""
    path = str(target)
    if not path.startswith(f"{OWN_PACKAGE}."):
        return path
    name = path.rpartition(".")[2]
    return RENAMED.get(name, name)
