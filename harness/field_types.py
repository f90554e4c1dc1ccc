"""Types of a component's fields: how users write values, and whether a value is of a type.

A field is plain (a number, a text, a choice, a list of them, null) or a component with fields of
its own.
"""

from collections.abc import Mapping
from enum import Enum
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import ConfigDict, TypeAdapter, ValidationError

from harness.errors import ConfigError

SPELLED: Mapping[Any, tuple[str, str]] = {
    int: ("an integer", "integers"),
    float: ("a number", "numbers"),
    str: ("a text", "texts"),
    bool: ("true or false", "true or false"),
    NoneType: ("null", "null"),
}
"""Plain type -> how a user writes one value, and several."""
UNIONS = (Union, UnionType)


def is_plain(hint: Any) -> bool:
    """Return whether values of a type need no component."""
    origin = get_origin(hint)
    if origin in UNIONS:
        return all(is_plain(part) for part in get_args(hint))
    if origin is tuple:
        return all(part is Ellipsis or is_plain(part) for part in get_args(hint))
    return origin is Literal or hint in SPELLED


def plain_value(value: Any, hint: Any, key: str) -> Any:
    """Return a value of a plain type, a list as a tuple.

    Raises:
        ConfigError: The value is of another type, not finite, or an integer of more than 64 bits.
    """
    for part in value if isinstance(value, tuple) else (value,):
        # No library takes larger ones.
        if isinstance(part, int) and not -(2**63) <= part < 2**63:
            raise ConfigError(
                f"{key} must be an integer of 64 bits, got {part}; type a smaller one"
            )
    adapter = TypeAdapter(hint, config=ConfigDict(strict=True, allow_inf_nan=False))
    try:
        return adapter.validate_python(value)
    except ValidationError as reason:
        raise ConfigError(f"{key} must be {spell(hint)}, got {shown(value)}") from reason


def spell(hint: Any, *, several: bool = False) -> str:
    """Return a type as a user writes its values, such as `an integer or null`.

    Args:
        hint: The type.
        several: Speak of several values, as in `a list of integers`.
    """
    origin = get_origin(hint)
    if origin in UNIONS:
        return " or ".join(spell(part, several=several) for part in get_args(hint))
    if origin in (tuple, list):
        return f"a list of {spell(get_args(hint)[0], several=True)}"
    if origin is Literal:
        return " or ".join(str(part) for part in get_args(hint))
    if isinstance(hint, type) and issubclass(hint, Enum):
        return " or ".join(hint.__members__)
    one, more = SPELLED.get(hint, (str(hint), str(hint)))
    return more if several else one


def shown(value: Any) -> str:
    """Return a value for a message, a read-only mapping as a dict."""
    return repr(dict(value) if isinstance(value, Mapping) else value)
