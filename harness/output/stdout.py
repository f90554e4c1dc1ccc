"""Standard output that ends: a pipe whose reader has gone, or a file on a full disk."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from harness.errors import OutputError


@contextmanager
def printing() -> Iterator[None]:
    """Write out what the block prints. A reader who has seen enough, as in `| head`, is no error.

    Raises:
        OutputError: Standard output cannot be written.
    """
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        _discard()
    except OSError as reason:
        if reason.filename is not None:  # a file of the block's
            raise
        _discard()
        raise OutputError(
            f"standard output must be writable, got: {reason.strerror or reason}; free some space, or send it elsewhere"
        ) from reason


def _discard() -> None:
    """Lose what is not written yet: Python would try again, and fail, when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
