"""Turn text that a user typed into a path on this machine, or say why it cannot be a path."""

import os
import re
from pathlib import Path

from harness import paths
from harness.errors import OutputError

ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
"""Beginning of an address, such as `s3://`. A single letter and a colon are a drive of Windows."""
LONGEST = 255
"""Longest file name on the usual file systems [byte]."""


def local_path(text: str, option: str) -> Path:
    """Return a path with `~` expanded.

    Args:
        text: The text that the user typed.
        option: The option that it was typed for, such as `--out` or `results_dir`; errors name it.

    Raises:
        OutputError: The text is empty, `-`, or an address outside of this machine's file system.
    """
    if text == "" or "\0" in text:
        raise OutputError(f"{option} must name a place to write, got {text!r}; name one")
    if text == "-":
        raise OutputError(
            f"{option} must be a path, got -; nothing but tables goes to standard output (./- is a "
            "file of that name)"
        )
    if ADDRESS.match(text):
        raise OutputError(
            f"{option} must be a path on this machine, got the address {text}; write here and copy "
            "it there, or mount that place"
        )
    expanded = paths.expanded(text)
    if text.startswith("~") and expanded == Path(text):
        raise OutputError(
            f"{option} must be a path, got {text}, whose user is unknown; write the path out "
            f"(./{text} is a folder of that name)"
        )
    return expanded


def file_stem(text: str, option: str, *, spare: int) -> str:
    """Return a name to which endings will be appended, after checking that it names files.

    Args:
        text: The text that the user typed.
        option: The option that it was typed for.
        spare: Length of the longest ending [byte].

    Raises:
        OutputError: The name is empty, too long, or names a folder.
    """
    if text in ("", ".", "..") or "/" in text or os.sep in text or "\0" in text:
        raise OutputError(
            f"{option} must be a name without a folder, got {text!r}; write NAME alone"
        )
    size = len(os.fsencode(text))
    if size + spare > LONGEST:
        raise OutputError(
            f"{option} must be a name of at most {LONGEST - spare} bytes, got {size} bytes; pass a "
            "shorter one"
        )
    return text
