"""Write files and folders atomically: no reader finds half of one, not even after a crash or on a full disk.

A new file has a temporary name in the same folder, is synced, and is then moved into place. If two processes write the same
path, the whole file of one of them remains.
"""

import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from harness.output import place, scratch

SYSTEM_ERROR = re.compile(r"\(os error (\d+)\)")
"""How messages of Rust libraries end for an error of the operating system; the libraries raise it in exceptions of their own."""


@contextmanager
def new_file(
    path: Path,
    option: str,
    noun: place.Noun = "file",
    *,
    force: bool = False,
    is_own: Callable[[Path], bool] = place.not_own,
) -> Iterator[IO[bytes]]:
    """Open a new file for writing; it gets its name when the block ends without an error.

    The arguments are those of `place.file_to_write`. Missing folders are made. The new file takes the permissions of the file that
    it replaces.

    Raises:
        OutputError: The file must not be replaced, or cannot be written. An existing file stays as it was.
    """

    def target() -> Path:
        return place.file_to_write(path, option, noun, force=force, is_own=is_own)

    with place.explained(path, option, noun):
        real = target()
        with scratch.made(real.parent), scratch.file_in(real.parent) as (new, stream):
            yield stream
            scratch.sync(stream)
            real = target()  # another program may have written there meanwhile
            if real.exists():
                _copy_mode(real, new)
            new.replace(real)
            scratch.sync_folder(real.parent)


def write_atomic(
    path: Path,
    content: bytes,
    option: str,
    noun: place.Noun = "file",
    *,
    force: bool = False,
    is_own: Callable[[Path], bool] = place.not_own,
) -> None:
    """Write a file at once; see `new_file`."""
    with new_file(path, option, noun, force=force, is_own=is_own) as stream:
        stream.write(content)


@contextmanager
def new_folder(
    path: Path,
    option: str,
    *,
    force: bool = False,
    is_own: Callable[[Path], bool] = place.not_own,
) -> Iterator[Path]:
    """Yield a new folder, which is moved to `path` when the block ends without an error, and removed otherwise.

    The arguments are those of `place.folder_to_make`. The parent of the yielded folder is removed at the end: the block may keep
    temporary files there.

    Raises:
        OutputError: The folder must not be replaced, or cannot be written. An existing folder stays as it was.
    """

    def target() -> Path:
        return place.folder_to_make(path, option, force=force, is_own=is_own)

    with place.explained(path, option, "folder"):
        real = target()
        with scratch.made(real.parent), scratch.folder_in(real.parent) as around:
            new = around / "new"
            new.mkdir()
            with _as_system_errors():
                yield new
            _finish(new)
            real = target()
            if real.exists():
                _copy_mode(real, new)
                # One step cannot replace a folder with files: move the old one aside; it is removed together with `around`.
                real.rename(around / "old")
            try:
                new.rename(real)
            except BaseException:
                if (around / "old").exists():
                    (around / "old").rename(real)
                raise
            scratch.sync_folder(real.parent)


@contextmanager
def _as_system_errors() -> Iterator[None]:
    """Turn errors of the operating system that Rust libraries raise in other classes into OSError."""
    try:
        yield
    except Exception as reason:
        if not isinstance(reason, OSError) and (number := SYSTEM_ERROR.search(str(reason))):
            raise OSError(int(number[1]), os.strerror(int(number[1]))) from reason
        raise


def _finish(folder: Path) -> None:
    """Give the files of a folder the usual permissions, since some libraries make theirs for the owner alone, and sync them."""
    with scratch.file_in(folder) as (usual, _):
        mode = stat.S_IMODE(usual.stat().st_mode)
    for file in folder.rglob("*"):
        if file.is_file():
            with suppress(OSError):  # a file system without permissions
                file.chmod(mode)
            with file.open("rb") as stream:
                scratch.sync(stream)
    scratch.sync_folder(folder)


def _copy_mode(old: Path, new: Path) -> None:
    with suppress(OSError):
        new.chmod(stat.S_IMODE(old.stat().st_mode))
