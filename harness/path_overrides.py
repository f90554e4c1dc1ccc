r"""Paths on the command line, as a shell hands them over: `model.path=/models/v1 (new)` needs no quotes for Hydra's grammar.

A value of a key that names a path is quoted before Hydra sees it, so that no character of a file name is syntax:

    model.path=it's [v2]                becomes   model.path='it\'s [v2]'
    -m model.path=a,b                   becomes   model.path='a','b'       a sweep over two folders,
                                        but       model.path='a,b'         where a file or folder `a,b` exists
    model.path=${oc.env:HOME}/models    stays an interpolation, unless a file or folder of that very name exists

Values that are quoted or escaped already, `null`, and Hydra's sweep functions such as `choice(a,b)` are left as they are, unless a file of
that name exists.
"""

import os
import re
from pathlib import Path

TOP_LEVEL = ("out", "results_dir")
"""Keys at the top that name a path. They are never swept: a comma in them is part of a name."""
NESTED = ("path", "include_path")
"""Last parts of other keys that name a path, such as `model.path`."""
FUNCTION = re.compile(r"(choice|range|interval|glob|shuffle|sort|tag|str)\(.*\)")
"""Hydra's functions for the values of a sweep."""
QUOTED = r"'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\""
ESCAPED = r".*\\[\\()\[\]{}:=, \t].*"
HYDRA = re.compile(rf"{QUOTED}|{ESCAPED}|{FUNCTION.pattern}", re.DOTALL)
"""Values that are quoted already, escaped with backslashes, or functions of Hydra."""
PARTS = re.compile(rf"(?:{QUOTED})(?=,|$)|(?:\\.|[^,])+")
"""Values of a sweep."""


def quoted(argument: str, *, sweep: bool) -> str:
    """Return a command-line argument with its value quoted for Hydra, if its key names a path.

    Args:
        argument: One word of the command line, such as `model.path=a b`.
        sweep: Whether a comma may separate values.
    """
    key, equals, value = argument.partition("=")
    name = key.lstrip("+")
    at_top = name in TOP_LEVEL
    if not equals or not (at_top or ("." in name and name.rpartition(".")[2] in NESTED)):
        return argument
    whole = at_top or not sweep or _exists(value) or FUNCTION.fullmatch(value)
    parts = [value] if whole else PARTS.findall(value)
    return f"{key}={','.join(map(_quote, parts))}"


def _quote(value: str) -> str:
    """Return a path as a quoted value of Hydra's grammar, or as it is if it was written for that grammar."""
    found = _exists(value)
    if not found and (value in ("", "null") or HYDRA.fullmatch(value)):
        return value
    # A shell has replaced `~user` already: what it left is the beginning of a name. `???` means a missing value to OmegaConf.
    is_home = not found and os.path.expanduser(value) != value  # noqa: PTH111 - Path raises where there is no such user
    if value == "???" or (value.startswith("~") and not is_home):
        value = str(Path.cwd() / value)
    if found:  # in a name that exists, `${` is no interpolation
        value = re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
    # Inside quotes Hydra reads a backslash as itself, except before a quote: double it there, also before the closing quote.
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", value)
    return "'" + re.sub(r"(\\+)$", r"\1\1", escaped) + "'"


def _exists(value: str) -> bool:
    try:
        return value != "" and Path(value).exists()
    except (OSError, ValueError):  # too long for a name, or with a null byte
        return False
