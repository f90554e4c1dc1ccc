"""What of a configuration is the identity of a run, and how fields are added without changing that of old runs.

The identity of a run is the hash of its configuration. A new key would change the hash of every old command, and no record on file would
be found again. A field declared with `later` is left out of the hash while it has its default.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

Value = TypeVar("Value")
KEY = "harness.later"
VOLATILE = ("force", "results_dir", "device")
"""Keys of a configuration that do not change what is measured; the device counts by its type instead."""


def later(default: Value) -> Value:
    """Return a dataclass field with a default that does not count in a run's identity.

    Example:
        attention: str | None = later(None)
    """
    made: Value = dataclasses.field(default=default, metadata={KEY: True})
    return made


def without_later_defaults(cls: type, node: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration node of a dataclass without its `later` fields that have their defaults."""
    if not dataclasses.is_dataclass(cls):
        return dict(node)
    defaults = {item.name: item.default for item in dataclasses.fields(cls) if KEY in item.metadata}
    return {
        key: value for key, value in node.items() if key not in defaults or value != defaults[key]
    }
