r"""Quote paths and names for Hydra's grammar: no quotes in `model.path=/models/v1 (new)`.

If a key holds a path or a name, its value is quoted before Hydra reads it. So Hydra takes no
character of a file name for syntax:

    model.path=it's [v2]                becomes   model.path='it\'s [v2]'
    -m model.path=a,b                   becomes   model.path='a','b'       a sweep over two folders,
                                        but       model.path='a,b'         if a path `a,b` exists
    model.path=${oc.env:HOME}/models    stays an interpolation, unless a path of that name exists

Values that are quoted or escaped, `null`, and Hydra's sweep functions such as `choice(a,b)` stay as
they are, unless a file of that name exists.
"""

import re
from pathlib import Path

from harness import paths

NEVER_SWEPT = ("out", "results_dir", "hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir")
"""Keys of a path that all jobs share: a comma in it is part of the name."""
PATHS = ("path", "include_path", "examples")
"""Last parts of other keys that hold a path, such as `model.path`."""
NAME = "name"
"""Last part of keys that hold a name, which may be any text."""
FUNCTION = re.compile(r"(choice|range|interval|glob|shuffle|sort|tag|str)\(.*\)")
"""Hydra's functions for the values of a sweep."""
QUOTED = r"'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\""
ESCAPED = r".*\\[\\()\[\]{}:=, \t].*"
HYDRA = re.compile(rf"{QUOTED}|{ESCAPED}|{FUNCTION.pattern}", re.DOTALL)
"""Values that are quoted already, escaped with backslashes, or functions of Hydra."""
PARTS = re.compile(rf"(?:{QUOTED})(?=,|$)|(?:\\.|[^,])+")
"""Values of a sweep."""


def quoted(argument: str, *, sweep: bool) -> str:
    """Return a word with its value quoted for Hydra, if its key holds a path or a name.

    Args:
        argument: A word of the command line, such as `model.path=a b`.
        sweep: Whether a comma may separate values.
    """
    key, equals, value = argument.partition("=")
    name = key.lstrip("+")
    owner, _, last = name.rpartition(".")
    is_single = name in NEVER_SWEPT
    if not equals or not (is_single or (owner and last in (*PATHS, NAME))):
        return argument
    is_path = last != NAME
    whole = is_single or not sweep or (is_path and paths.exists(value)) or FUNCTION.fullmatch(value)
    parts = [value] if whole else PARTS.findall(value)
    return f"{key}={','.join(_quote(part, is_path=is_path) for part in parts)}"


def _quote(value: str, *, is_path: bool) -> str:
    """Return a value in quotes, or as it is if it was written in Hydra's grammar."""
    found = is_path and paths.exists(value)
    if not found and (value in ("", "null") or HYDRA.fullmatch(value)):
        return value
    # The shell has replaced `~user`; a `~` that it left is part of a name, if not a home folder.
    # `???` is a missing value for OmegaConf. An absolute path begins with neither.
    is_home = not found and paths.expanded(value) != Path(value)
    if is_path and (value == "???" or (value.startswith("~") and not is_home)):
        value = str(Path.cwd() / value)
    # In the name of a file that exists, `${` is no interpolation.
    return literal(value) if found else in_quotes(value)


def literal(value: str) -> str:
    """Return a text as a quoted value of Hydra's grammar, in which `${` is no interpolation."""
    return in_quotes(re.sub(r"(\\*)\$\{", r"\1\1\\${", value))


def in_quotes(value: str) -> str:
    """Return a text as a quoted value of Hydra's grammar."""
    # Inside quotes, a backslash is itself except before a quote: double it there, and at the end.
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", value)
    return "'" + re.sub(r"(\\+)$", r"\1\1", escaped) + "'"
