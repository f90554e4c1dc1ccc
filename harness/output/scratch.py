"""Files and folders with a temporary name, in the folder where they will be moved into place: a move within a folder is atomic."""

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

PREFIX = ".writing-"
"""Beginning of a temporary name."""
UNSUPPORTED = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)
"""Errors of file systems that cannot sync. They are ignored, because there is no other way to make a file outlast a crash."""


@contextmanager
def file_in(folder: Path) -> Iterator[tuple[Path, IO[bytes]]]:
    """Make a file with the user's usual permissions; remove it at the end unless it was moved."""
    path = _fresh(folder)
    try:
        stream = path.open("xb")  # not `mkstemp`, whose files only their owner reads
        try:
            yield path, stream
        finally:
            # After `sync` nothing is left to write. After an error in the block, that error is the one to report.
            with suppress(OSError):
                stream.close()
    finally:
        path.unlink(missing_ok=True)


@contextmanager
def folder_in(folder: Path) -> Iterator[Path]:
    """Make a folder; remove it with its content at the end."""
    path = _fresh(folder)
    try:
        path.mkdir()
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def made(folder: Path) -> Iterator[None]:
    """Make a folder and its parents. If the block fails, remove the new ones that are empty."""
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
    """Wait until the data of a file is on the disk."""
    stream.flush()
    _sync(stream.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until new names in a folder are on the disk, so that they outlast a power failure."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # the user may write to this folder, but not list it
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
