"""Python values as words of the command line: `limit=None` becomes `limit=null`.

A text arrives as it was given: none of its characters is syntax, and `${` is no interpolation.
"""

import os
import re
from collections.abc import Mapping
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from harness.cli.path_overrides import literal
from harness.errors import ConfigError

BARE = re.compile(r"[\w./-]+", re.ASCII)
"""Texts that need no quotes, unless they are numbers or keywords."""
SYNTAX = re.compile(r"([\\()\[\]{}:=, \t])")
"""Characters of Hydra's grammar that a key of a mapping has behind a backslash."""


def spelled(key: str, value: Any) -> str:
    """Return the word `key=value` from which Hydra reads the value back.

    Args:
        key: A group such as `task`, or a key such as `task.limit`.
        value: None, a bool, a number, a text, a path, or a list or mapping of such values.

    Raises:
        ConfigError: The value is of another type, or a mapping has a key that Hydra cannot read.
    """
    return f"{key}={_spell(value, key)}"


def _spell(value: Any, key: str) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str | os.PathLike):
        return _text(os.fspath(value))
    if isinstance(value, list | tuple):
        return f"[{','.join(_spell(each, key) for each in value)}]"
    if isinstance(value, Mapping):
        return f"{{{','.join(_pair(name, each, key) for name, each in value.items())}}}"
    raise ConfigError(
        f"{key} must be None, a bool, a number, a text, a path, or a list or dict of them, "
        f"got {type(value).__name__}"
    )


def _text(text: str) -> str:
    """Return a text as it is if Hydra reads it as this text, else in quotes, such as `'1'`."""
    if not BARE.fullmatch(text):
        return literal(text)
    read = OverridesParser.create().parse_override(f"key={text}").value()
    return text if read == text else literal(text)


def _pair(name: Any, value: Any, key: str) -> str:
    """Return `name: value`; raise ConfigError if Hydra reads another name: keys have no quotes."""
    escaped = SYNTAX.sub(r"\\\1", str(name))
    pair = f"{escaped}:{_spell(value, key)}"
    try:
        found = OverridesParser.create().parse_override(f"key={{{pair}}}").value()
    except HydraException:
        found = None
    if not isinstance(found, Mapping) or list(found) != [name]:
        raise ConfigError(
            f"{key} must have keys that Hydra can read, got {name!r}; use a YAML file"
        )
    return pair
