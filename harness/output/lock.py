"""A lock between processes, which the operating system frees when its holder dies."""

import errno
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from harness.output.place import explained
from harness.output.scratch import made

log = logging.getLogger(__name__)


@contextmanager
def locked(file: Path, option: str, *, of: Path, busy: str, mode: int = 0o644) -> Iterator[None]:
    """Be the only process in the block; wait while another is.

    Args:
        file: The lock, in a folder that is made if need be.
        option: What names the folder `of` on the command line or in the environment; errors name it.
        of: What the lock is for.
        busy: What is logged before waiting.
        mode: Permissions of the lock. Another user can hold it only if they let him write.

    Raises:
        OutputError: The lock cannot be made.
    """
    with explained(of, option, "folder"), made(file.parent):
        lock = FileLock(file, mode=mode)
        try:
            try:
                lock.acquire(timeout=0)
            except Timeout:
                log.warning("%s", busy)
                lock.acquire()
        except NotImplementedError as reason:  # a file system without locks
            raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP)) from reason
    try:
        yield
    finally:
        lock.release()
