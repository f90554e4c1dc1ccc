"""Files and folders that appear when they are whole: a reader, a crash or a full disk never sees half of one.

What is written gets a temporary name in the same folder, is synced, and moved into place. Two processes that write the same path
leave the file of one of them, whole.
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
"""How libraries in Rust spell an error of the operating system: an exception of their own, with its number in the text."""


@contextmanager
def new_file(
    path: Path,
    option: str,
    noun: place.Noun = "file",
    *,
    force: bool = False,
    is_own: Callable[[Path], bool] = place.not_own,
) -> Iterator[IO[bytes]]:
    """Open a file for writing that appears under its name when the block ends without an error.

    Arguments are those of `place.file_to_write`. Missing folders are made. A file that is replaced leaves its permissions.

    Raises:
        OutputError: It must not be replaced, or cannot be written; what had the name before is untouched.
    """

    def target() -> Path:
        return place.file_to_write(path, option, noun, force=force, is_own=is_own)

    with place.explained(path, option, noun):
        real = target()
        with scratch.made(real.parent), scratch.file_in(real.parent) as (new, stream):
            yield stream
            scratch.sync(stream)
            real = target()  # something may have come in the meantime
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
    """Yield a folder that appears at `path` when the block ends without an error, and is removed otherwise.

    Arguments are those of `place.folder_to_make`. The folder around the one that is yielded is removed at the end: files that are
    needed meanwhile have a place there.

    Raises:
        OutputError: It must not be replaced, or cannot be written; what had the name before is untouched.
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
                # A folder with files cannot be replaced in one step: it steps aside, and is removed with what is around.
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
    """Raise as OSError what libraries raise of a full disk in other classes."""
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
