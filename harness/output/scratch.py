"""Files and folders with a temporary name, in the folder where they will be moved into place."""

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
"""Errors of file systems that cannot sync; they are ignored, because nothing else can be done."""


@contextmanager
def file_in(folder: Path) -> Iterator[tuple[Path, IO[bytes]]]:
    """Context manager: make a file with the usual permissions; remove it unless it was moved."""
    path = _fresh(folder)
    try:
        stream = path.open("xb")  # not `mkstemp`, whose files only their owner reads
        try:
            yield path, stream
        finally:
            # After `sync` nothing is left to write. After an error in the block, report that error.
            with suppress(OSError):
                stream.close()
    finally:
        path.unlink(missing_ok=True)


@contextmanager
def folder_in(folder: Path) -> Iterator[Path]:
    """Context manager: make a folder; remove it with its content at the end."""
    path = _fresh(folder)
    try:
        path.mkdir()
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def made(folder: Path) -> Iterator[None]:
    """Context manager: make a folder and its parents; after an error remove the new empty ones."""
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
    """Wait until new names in a folder are on the disk and outlast a power failure."""
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
