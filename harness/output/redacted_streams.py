"""Masks secrets in what a command prints or logs: its own lines, Hydra's, a traceback's."""

import logging
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import IO, Any, cast

from harness.redaction import known_values, redacted


class RedactedStream:
    """A text stream that masks secrets; everything but writing is passed on to the stream."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text with its secrets masked."""
        self._stream.write(redacted(text, known_values()))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write texts with their secrets masked."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def redacted_streams() -> Iterator[None]:
    """Context manager that masks secrets in everything that this process prints.

    Python has None for a stream that was closed before it began, as by `>&-`. What is printed there
    is lost, and no error.
    """
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        streams = (
            cast(IO[str], RedactedStream(nowhere if stream is None else stream))
            for stream in (sys.stdout, sys.stderr)
        )
        with redirect_stdout(next(streams)), redirect_stderr(next(streams)):
            yield


def redact_logs() -> None:
    """Mask secrets in every log record when it is made: no handler and no log file has them."""
    logging.setLogRecordFactory(_redacted_record)


def _redacted_record(*args: Any, **fields: Any) -> logging.LogRecord:
    record = logging.LogRecord(*args, **fields)
    values = known_values()
    try:
        message = record.getMessage()
    except (TypeError, ValueError):  # arguments that do not fit: logging reports it later
        return record
    if (masked := redacted(message, values)) != message:
        record.msg, record.args = masked, None
    if record.exc_info:
        # Formatters use this text if it is there.
        record.exc_text = redacted(logging.Formatter().formatException(record.exc_info), values)
    return record
