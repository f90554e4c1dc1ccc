"""Reads files of a user: plain text, and JSONL with one object a line.

Files are UTF-8. A byte order mark and carriage returns at line ends are removed, so that a text has
the same hash on every system.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from harness import paths
from harness.errors import DataError

ROW_SUFFIXES = (".jsonl", ".ndjson")


class Row(NamedTuple):
    """One object of a JSONL file."""

    place: str
    """File and line, for messages."""
    fields: dict[str, Any]


def is_rows(path: str) -> bool:
    """Say by its name whether a file has one JSON object a line."""
    return Path(path).suffix.lower() in ROW_SUFFIXES


def read_text(path: str, key: str) -> str:
    """Return the text of a file.

    Args:
        path: The file.
        key: The key that names the file, for messages.

    Raises:
        DataError: The file is missing, empty or not UTF-8.
    """
    file = paths.expanded(path)
    if not paths.is_file(file):
        raise DataError(f"{key} must be a file, got {str(file)!r}; correct the path")
    try:
        content = file.read_bytes()
    except OSError as reason:
        raise DataError(
            f"{key} must be a file that can be read, got {file}: {reason.strerror}"
        ) from reason
    try:
        text = content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as reason:
        line = content[: reason.start].count(b"\n") + 1
        raise DataError(
            f"{key} must be a file in UTF-8, got the byte {content[reason.start]:#04x} in line "
            f"{line} of {file}; save it as UTF-8"
        ) from reason
    if not text.strip():
        raise DataError(f"{key} must be a file with text in it, got {file}, which is empty")
    return text


def read_rows(path: str, key: str) -> Iterator[Row]:
    """Yield the rows of a JSONL file; blank lines are skipped.

    Raises:
        DataError: The file is missing, empty or not UTF-8, or a line is not a JSON object.
    """
    # Not `splitlines`: a JSON string may hold line separators of Unicode.
    for number, line in enumerate(read_text(path, key).split("\n"), start=1):
        place = f"{path}, line {number}"
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
            json.dumps(fields, ensure_ascii=False).encode()  # fails for half a surrogate pair
        except (ValueError, RecursionError) as reason:
            raise DataError(
                f"{place}: must be a JSON object in valid Unicode, got {line[:60]!r} ({reason}); "
                "mend or remove the line"
            ) from reason
        if not isinstance(fields, dict):
            raise DataError(
                f"{place}: must be a JSON object, got {line[:60]!r}; mend or remove the line"
            )
        yield Row(place, fields)
