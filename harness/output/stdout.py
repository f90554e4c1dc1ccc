"""Standard output that ends early: a pipe whose reader has closed it, or a full disk."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from harness.errors import OutputError


@contextmanager
def printing() -> Iterator[None]:
    """Context manager that flushes standard output. A closed pipe, as in `| head`, is no error.

    Raises:
        OutputError: Standard output cannot be written.
    """
    try:
        with until_closed():
            yield
            sys.stdout.flush()
    except OSError as reason:
        if reason.filename is not None:  # the error is of a file that the block opened
            raise
        _discard()
        raise OutputError(
            f"standard output must be writable, got: {reason.strerror or reason}; free some space, "
            "or send it elsewhere"
        ) from reason


@contextmanager
def until_closed() -> Iterator[None]:
    """Context manager that ends quietly where the reader of standard output has closed the pipe."""
    try:
        yield
    except BrokenPipeError:
        _discard()


def _discard() -> None:
    """Send unwritten output to the null device: Python would try to write it again at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
