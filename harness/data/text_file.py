"""A text of a user: a plain text file, or the rows of a JSONL file.

plain text    the file is the text and one document: its metrics have no interval
JSONL         the rows are joined by a blank line, as WikiText's are; a row is a document
"""

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from harness import paths
from harness.data.files import is_rows, read_rows, read_text
from harness.data.source import SEPARATOR, QuestionSet, Text, joined_starts
from harness.errors import DataError


@dataclass(frozen=True, kw_only=True, slots=True)
class TextFile:
    """A file of text, for perplexity, divergence and calibration."""

    path: str
    """`.jsonl` and `.ndjson` have one JSON object a line; everything else is plain text."""
    field: str = "text"
    """Name of the field with the text in a row of JSONL."""

    def __post_init__(self) -> None:
        """Check that the file is not `.json`, which is neither plain text nor JSONL."""
        if Path(self.path).suffix.lower() == ".json":
            raise ValueError(
                f"path must be plain text or JSONL (one object a line), got {self.path}; "
                "write its rows to a .jsonl file"
            )

    def text(self) -> Text:
        """Return the text.

        Raises:
            DataError: The file is missing, empty or not UTF-8, or a row has no text.
        """
        file = paths.expanded(self.path)
        changed = file.stat().st_mtime_ns if paths.is_file(file) else 0
        return _read(self, changed)

    def questions(self) -> QuestionSet:
        """Raise DataError: a text has no questions."""
        raise DataError(
            f"this task needs questions, got the text {self.path}; use data=questions "
            "data.path=FILE.jsonl, or another task"
        )


@lru_cache(maxsize=4)
def _read(source: TextFile, _changed: int) -> Text:
    if is_rows(source.path):
        documents = tuple(
            _text_of(row.fields, source.field, row.place)
            for row in read_rows(source.path, "data.path")
        )
    else:
        documents = (read_text(source.path, "data.path"),)
    joined = SEPARATOR.join(documents)
    return Text(
        name=Path(source.path).name,
        text=joined,
        sha256=hashlib.sha256(joined.encode()).hexdigest(),
        num_rows=len(documents),
        documents=documents,
        starts=joined_starts(documents),
        is_as_written=True,
    )


def _text_of(fields: dict[str, object], key: str, place: str) -> str:
    found = fields.get(key)
    if not isinstance(found, str) or not found.strip():
        raise DataError(
            f"{place}: {key} must be a text that is not empty, got {found!r}; "
            "mend or remove the line, or name another field by data.field"
        )
    return found
