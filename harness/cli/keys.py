"""The page of `--help task=mmlu`: each key of what is chosen, its value, type and meaning."""

import dataclasses
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from omegaconf import OmegaConf

from harness import config, field_types
from harness.cli.arguments import COMPONENTS
from harness.cli.field_docs import field_docs
from harness.cli.plain_logging import plain_logging
from harness.cli.recipe_name import spell
from harness.cli.spelling import spelled

WIDTH = 100
OPEN = "???"
"""How OmegaConf writes a value that must be given."""
POINTER = re.compile(r"; (?:see )?the module docstring[^.]*(?=\.)")
"""A pointer to the module docstring, which a help page does not show."""


def help_page(arguments: Sequence[str], name: str) -> str | None:
    """Return a page on the components that a command line with `--help` chooses or changes.

    Args:
        arguments: A command line in Hydra's spelling, such as `--help task=mmlu`.
        name: The configuration file of the command.

    Returns:
        The page, or None for a command line without `--help` or without a component.

    Raises:
        HydraException: An option or key does not exist.
        ConfigError: A class does not exist.
    """
    parsed = get_args_parser().parse_intermixed_args(list(arguments))
    parts = dict.fromkeys(_part(word) for word in parsed.overrides)
    if not parsed.help or not parts.keys() & set(COMPONENTS):
        return None
    words = list(parsed.overrides)
    if parsed.config_dir:
        words.append(spelled("hydra.searchpath", [f"file://{Path(parsed.config_dir).absolute()}"]))
    with initialize_config_dir(version_base="1.3", config_dir=str(config.CONF)):
        composed = compose(name, words, return_hydra_config=True)
    choices = composed.hydra.runtime.choices
    plain: Any = OmegaConf.to_container(composed, resolve=False)
    allowed = tuple(plain["allow_targets"])
    lines: list[str] = []
    with plain_logging():  # libraries report at import what they cannot use here
        for part in parts:
            if isinstance(node := plain.get(part), Mapping):
                lines += _title(node, f"{part}={choices.get(part, 'none')}", allowed)
                lines += [*_component(node, part, allowed), ""]
    return "\n".join(lines)


def _part(word: str) -> str:
    """Return the top-level key of a word: `task` of `task.limit=8`, `quant` of `format@quant.a`."""
    key = word.lstrip("+~").partition("=")[0]
    return key.rpartition("@")[2].partition(".")[0]


def _component(node: Mapping[str, Any], key: str, allowed: tuple[str, ...]) -> Iterator[str]:
    """Yield lines on the fields of a component, and of its own components below them."""
    found = config.find_class(node["_target_"], key, allowed)
    hints, texts = get_type_hints(found), field_docs(found)
    for item in dataclasses.fields(found):
        path = f"{key}.{item.name}"
        value = node.get(item.name, config.default_of(item))
        yield from ("", f"  {path}{_shown(value)}  ({_kind(hints[item.name])})")
        # Docstrings say None; users type null.
        yield from _wrapped(re.sub(r"\bNone\b", "null", texts.get(item.name, "")))
        if isinstance(value, Mapping):
            yield from _parts(value, path, allowed)


def _parts(node: Mapping[str, Any], key: str, allowed: tuple[str, ...]) -> Iterator[str]:
    """Yield lines on the fields of a component, or on each component of a mapping."""
    if "_target_" in node:
        yield from _component(node, key, allowed)
        return
    for name, child in node.items():
        if isinstance(child, Mapping):
            yield from ("", f"  {key}.{name}{_shown(child)}")
            yield from _parts(child, f"{key}.{name}", allowed)


def _shown(value: Any) -> str:
    """Return `=VALUE`, `: CLASS` for a component, or nothing for a value that must be given."""
    if isinstance(value, Mapping):
        return f": {_class(value)}" if "_target_" in value else ""
    return "" if value in (dataclasses.MISSING, OPEN) else f"={spell(value)}"


def _kind(hint: Any) -> str:
    """Return a type as a user writes its values; a component is named by its class or protocol."""
    if field_types.is_plain(hint):
        return field_types.spell(hint)
    parts = get_args(hint)
    if get_origin(hint) is Mapping:
        return f"a mapping from names to {_kind(parts[1])}"
    if parts:
        return " or ".join("null" if part is NoneType else _kind(part) for part in parts)
    return f"component {hint.__name__}"


def _title(node: Mapping[str, Any], chosen: str, allowed: tuple[str, ...]) -> Iterator[str]:
    """Yield the choice, and the first paragraph of its class's docstring."""
    text = config.find_class(node["_target_"], chosen, allowed).__doc__ or ""
    yield f"{chosen}  ({_class(node)})"
    summary = " ".join(text.partition("\n\n")[0].split())
    yield from _wrapped(POINTER.sub("", summary))


def _class(node: Mapping[str, Any]) -> str:
    return str(node["_target_"]).rpartition(".")[2]


def _wrapped(text: str) -> list[str]:
    margin = " " * 6
    return textwrap.wrap(text, WIDTH, initial_indent=margin, subsequent_indent=margin)
