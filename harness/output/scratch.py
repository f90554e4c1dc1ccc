"""Files and folders under a temporary name, beside the place where they will stand: moving them there is one step of the file system."""

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

PREFIX = ".writing-"
"""How temporary names begin."""
UNSUPPORTED = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)
"""Errors of file systems that cannot sync; they promise nothing, and nothing more can be done."""


@contextmanager
def file_in(folder: Path) -> Iterator[tuple[Path, IO[bytes]]]:
    """Make a file with the usual permissions of the user; it is removed at the end if it is still there."""
    path = _fresh(folder)
    try:
        stream = path.open("xb")  # not `mkstemp`, whose files only their owner reads
        try:
            yield path, stream
        finally:
            # After `sync` nothing is left to write; after an error that error is the one to tell.
            with suppress(OSError):
                stream.close()
    finally:
        path.unlink(missing_ok=True)


@contextmanager
def folder_in(folder: Path) -> Iterator[Path]:
    """Make a folder that is removed at the end with all that is in it."""
    path = _fresh(folder)
    try:
        path.mkdir()
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def made(folder: Path) -> Iterator[None]:
    """Make a folder with its parents; if the block fails, those that are new and empty are removed."""
    new = [part for part in (folder, *folder.parents) if not part.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for part in new:
            with suppress(OSError):
                part.rmdir()
        raise


def sync(stream: IO[bytes]) -> None:
    """Wait until what was written is on the disk."""
    stream.flush()
    _sync(stream.fileno())


def sync_folder(folder: Path) -> None:
    """Make new names in a folder outlast a power failure, not only a crash of the process."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # a folder that may be written and not be listed
        return
    try:
        _sync(descriptor)
    finally:
        os.close(descriptor)


def _sync(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    except OSError as reason:
        if reason.errno not in UNSUPPORTED:
            raise


def _fresh(folder: Path) -> Path:
    return folder / f"{PREFIX}{secrets.token_hex(8)}"
