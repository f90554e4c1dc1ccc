"""Handle the end of standard output: a pipe that its reader has closed, or a file on a full disk."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from harness.errors import OutputError


@contextmanager
def printing() -> Iterator[None]:
    """Flush standard output after the block. A pipe that its reader has closed, as in `| head`, is no error.

    Raises:
        OutputError: Standard output cannot be written.
    """
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        _discard()
    except OSError as reason:
        if reason.filename is not None:  # of a file that the block opened
            raise
        _discard()
        raise OutputError(
            f"standard output must be writable, got: {reason.strerror or reason}; free some space, or send it elsewhere"
        ) from reason


def _discard() -> None:
    """Send output that is not written yet to the null device: Python would try to write it again when it ends, and fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
