"""Name a recipe that overrides or an experiment changed: `int8_row (weight=int2_g128)`.

1. The recipe's own file is composed again, alone.
2. It is compared with the recipe of the run, interpolations unresolved. If a part interpolates a
   key (`block: [1, ${quant.group_size}]`) and the key changes, only the key counts as changed.
3. Every change adds a word to the name, except a key that the name interpolates
   (`int4_g${quant.group_size}`). A name that the user gave stays as it is.

The configuration that is hashed and written to the record keeps the name in the recipe's file.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields
from typing import Any

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from harness import config

FOLLOWED = re.compile(r"\$\{quant\.([\w.]+)\}")
"""A key of a recipe that a text interpolates."""
FORMATS = ("weight", "input")
"""Keys of a rule that hold a format. The name of a format says everything that changes numbers."""

Path = tuple[str, ...]


def recipe_name(cfg: DictConfig, resolved: Mapping[str, Any]) -> str:
    """Return the name of a composed job's recipe.

    Args:
        cfg: The configuration that Hydra composed for the job that this process runs.
        resolved: The same as plain data.

    Raises:
        ConfigError: A changed part cannot be built.
    """
    hydra_config = HydraConfig.get()
    choice = hydra_config.runtime.choices.get("quant")
    name = str(resolved["quant"].get("name"))
    if choice is None:
        return name
    own = compose(hydra_config.job.config_name, [f"+quant='{choice}'"])
    return changed_name(
        name,
        as_written=_plain(cfg),
        own=_plain(own),
        resolved=resolved["quant"],
        allow_targets=tuple(resolved["allow_targets"]),
    )


def changed_name(
    name: str,
    *,
    as_written: Mapping[str, Any],
    own: Mapping[str, Any],
    resolved: Mapping[str, Any],
    allow_targets: tuple[str, ...] = (),
) -> str:
    """Return a name followed by the parts that differ from the recipe's own.

    Args:
        name: The recipe's name, interpolations resolved.
        as_written: The recipe of the run, interpolations as they are.
        own: The recipe as its file has it.
        resolved: The recipe of the run, interpolations resolved.
        allow_targets: See `config.build`.
    """
    if as_written.get("name") != own.get("name"):
        return name
    said = {("name",), *(tuple(key.split(".")) for key in FOLLOWED.findall(str(own.get("name"))))}
    parts = dict.fromkeys(
        _part(path, as_written, own) for path in _changed(as_written, own) if path not in said
    )
    words = [f"{_key(path, resolved)}={_value(path, resolved, allow_targets)}" for path in parts]
    rules, before = (list(node.get("rules", {})) for node in (as_written, own))
    # The order of rules counts: the first that matches decides.
    if rules != before and sorted(rules) == sorted(before):
        words.append(f"rules={spell(rules)}")
    return f"{name} ({', '.join(words)})" if words else name


def _plain(cfg: DictConfig) -> dict[str, Any]:
    found = OmegaConf.to_container(cfg.quant, resolve=False)
    assert isinstance(found, dict)  # noqa: S101 - it is a mapping in the schema
    return {str(key): value for key, value in found.items()}


def _changed(ours: Any, theirs: Any, path: Path = ()) -> Iterator[Path]:
    """Yield the path of every value that differs between two nodes, or is missing in one."""
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        for key in dict.fromkeys((*theirs, *ours)):
            yield from _changed(ours.get(key, MISSING), theirs.get(key, MISSING), (*path, key))
    elif ours != theirs:
        yield path


def _part(path: Path, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Path:
    """Return the path to name for a changed value: its format, a replaced component, or itself."""
    for end in range(1, len(path)):
        part = path[:end]
        a, b = _at(ours, part), _at(theirs, part)
        is_format = part[0] == "rules" and part[2:] in {(kind,) for kind in FORMATS}
        if is_format or _target(a) != _target(b):
            return part
    return path


def _at(node: Any, path: Path) -> Any:
    """Return the value at a path, or None."""
    for key in path:
        node = node.get(key) if isinstance(node, Mapping) else None
    return node


def _target(node: Any) -> Any:
    return node.get("_target_") if isinstance(node, Mapping) else None


def _key(path: Path, resolved: Mapping[str, Any]) -> str:
    """Return a short form of a path, such as `weight` if there is only one rule."""
    if path[0] != "rules" or len(path) == 1:
        return ".".join(path)
    only = len(resolved.get("rules", {})) == 1 and len(path) > 2
    return ".".join(path[2:] if only else path[1:])


def _value(path: Path, resolved: Mapping[str, Any], allow_targets: tuple[str, ...]) -> str:
    node = _at(resolved, path)
    if _target(node) is None:
        return spell(node)
    return _spell_component(config.build(node, ".".join(("quant", *path)), allow_targets))


def _spell_component(found: Any) -> str:
    """Return name or class of a component, and its fields that differ from their defaults."""
    name = getattr(found, "name", type(found).__name__)
    if hasattr(found, "to_grid"):  # a format
        return str(name)
    own = [
        f"{item.name}={spell(getattr(found, item.name))}"
        for item in fields(found)
        if item.name != "name" and getattr(found, item.name) != config.default_of(item)
    ]
    return f"{name}({', '.join(own)})" if own else str(name)


def spell(value: Any) -> str:
    """Return a value as it is typed on the command line."""
    if hasattr(value, "__dataclass_fields__"):
        return _spell_component(value)
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {spell(each)}' for key, each in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(spell, value))}]"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return str(value)
