"""From what a user typed to a path: what can be the name of a file or folder of this machine."""

import os
import re
from pathlib import Path

from harness import paths
from harness.errors import OutputError

ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
"""How addresses begin, such as `s3://`. One letter would be a drive."""
LONGEST = 255
"""Most bytes of a file name on the usual file systems."""


def local_path(text: str, option: str) -> Path:
    """Return a path with `~` expanded.

    Args:
        text: What was typed.
        option: What it was typed for, such as `--out` or `results_dir`; errors name it.

    Raises:
        OutputError: It is empty, `-`, or the address of something that is not in this machine's file system.
    """
    if text == "" or "\0" in text:
        raise OutputError(f"{option} must name a place to write, got {text!r}; name one")
    if text == "-":
        raise OutputError(
            f"{option} must be a path, got -; nothing but tables goes to standard output (./- is a file of that name)"
        )
    if ADDRESS.match(text):
        raise OutputError(
            f"{option} must be a path on this machine, got the address {text}; write here and copy it there, or mount that place"
        )
    expanded = paths.expanded(text)
    if text.startswith("~") and expanded == Path(text):
        raise OutputError(
            f"{option} must be a path, got {text}, whose user is unknown; write the path out (./{text} is a folder of that name)"
        )
    return expanded


def file_stem(text: str, option: str, *, spare: int) -> str:
    """Return a name that is a file inside a folder whatever is appended to it.

    Args:
        text: What was typed.
        option: What it was typed for.
        spare: Most bytes that will be appended.

    Raises:
        OutputError: It is empty, too long, or leads to another folder.
    """
    if text in ("", ".", "..") or "/" in text or os.sep in text or "\0" in text:
        raise OutputError(
            f"{option} must be a name without a folder, got {text!r}; write NAME alone"
        )
    size = len(os.fsencode(text))
    if size + spare > LONGEST:
        raise OutputError(
            f"{option} must be a name of at most {LONGEST - spare} bytes, got {size} bytes; pass a shorter one"
        )
    return text
