"""A lock between processes; the operating system frees it when the process that holds it dies."""

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
    """Run the block in one process at a time; wait while another process is in it.

    Args:
        file: The lock, in a folder that is made if need be.
        option: The option or environment variable that the user names the folder `of` with; errors name it.
        of: The folder that the lock protects.
        busy: Message to log before waiting.
        mode: Permissions of the lock file. Another user can hold the lock only if he may write the file.

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
