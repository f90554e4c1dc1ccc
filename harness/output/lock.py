"""A lock between processes. The operating system frees it when its holder dies."""

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
    """Context manager: run the block in one process at a time; other processes wait.

    Args:
        file: The lock file. Its folder is made if it is missing.
        option: The option or environment variable for the folder `of`; errors name it.
        of: The folder that the lock protects.
        busy: Message to log before waiting.
        mode: Permissions of the lock file. Only users who may write the file can hold the lock.

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
