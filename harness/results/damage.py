"""Damaged files in a results folder: how to read them safely, and what to say about them.

Editors, copies and other programs change the files of a results folder. Only a regular file of a
plausible size is read: a pipe would block for ever, a device never ends. A file that is not a
record is explained, not deleted.
"""

import json
import stat
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from harness.errors import ResultError

MOST_RECORD_BYTES = 1 << 26
"""64 MiB. A record takes about 300 bytes a layer: one of 100,000 layers is smaller."""
MOST_SAMPLES_BYTES = 1 << 33
"""8 GiB. A token takes 4 bytes: the samples of 10^9 tokens are smaller."""
OWN_KEYS = ("run_id", "config_hash", "status")
"""A JSON object without any of these was never a record."""


def content(path: Path, most: int) -> bytes:
    """Return the content of a regular file of at most `most` bytes.

    Raises:
        ResultError: It is not a regular file, is larger, or cannot be read.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            kind = "a folder" if stat.S_ISDIR(found.st_mode) else "a pipe or a device"
            raise ResultError(f"{path} must be readable, got {kind}; move it elsewhere")
        if found.st_size > most:
            raise ResultError(
                f"{path} must have at most {most:,} bytes, got {found.st_size:,}; it is not from "
                "here, move it elsewhere"
            )
        return path.read_bytes()
    except (OSError, ValueError) as reason:  # ValueError: a name with a null character
        what = getattr(reason, "strerror", None) or str(reason)
        raise ResultError(
            f"{path} must be readable, got: {what}; make it so, or repeat the run"
        ) from reason


def explanation(reason: ValidationError, text: bytes, version: int) -> str:
    """Return why a file is not a whole record of this schema version, and what to do."""
    again = "delete the file and repeat the run"
    first = reason.errors(include_url=False)[0]
    try:
        found: Any = json.loads(text)
    except (ValueError, RecursionError):
        return f"the file: {_one_line(first['msg'])}; {again}"
    if not isinstance(found, dict) or not any(key in found for key in OWN_KEYS):
        return "JSON that is not a record; move it elsewhere"
    written = found.get("schema_version", version)
    if isinstance(written, int) and written > version:
        return (
            f"schema version {written}, of which this version reads {version}; update quant-harness"
        )
    place = ".".join(map(str, first["loc"])) or "the record"
    if first["type"] == "extra_forbidden":
        return (
            f"the unknown field {place}; if a newer version wrote it, update quant-harness, else "
            f"{again}"
        )
    return f"{place}: {_one_line(first['msg'])}; {again}"


def _one_line(text: str) -> str:
    return " ".join(text.split())
