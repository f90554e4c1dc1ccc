"""Write files and folders atomically: no reader finds a part, even after a crash or on a full disk.

Pattern:

1. Check that the path may be written (`harness.output.place`).
2. Write to a temporary name in the same folder, because a move between disks is not atomic.
3. Sync the content to the disk.
4. Check the path again, since another program may have written there, and take the permissions of
   the file that is replaced.
5. Move the file into place, and sync the folder.

Accepted trade-offs:

- A sync costs milliseconds per file. Without it a power failure could leave an empty file under
  the final name.
- Two processes that write the same path do not wait for each other; the whole file of one remains.
- A replaced folder is away for an instant: the old one is moved aside before the new one is moved
  into place. If the second move fails, the old folder is moved back.
- Between steps 4 and 5 another program can still create the file; it is then replaced.
- A killed process leaves files whose names begin with `.writing-`.

Scope: local and network file systems with atomic renames. Owners, ACLs and extended attributes of a
replaced file are not kept. Taking turns is the task of `harness.output.lock`.
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
"""Rust libraries (safetensors) put errors of the system into exceptions of their own; the message
ends like this."""


@contextmanager
def new_file(
    path: Path,
    option: str,
    noun: place.Noun = "file",
    *,
    force: bool = False,
    is_own: Callable[[Path], bool] = place.not_own,
) -> Iterator[IO[bytes]]:
    """Context manager: open a new file, which gets its name when the block ends without an error.

    The arguments are those of `place.file_to_write`. Missing folders are made. The new file takes
    the permissions of the file that it replaces.

    Raises:
        OutputError: The file must not be replaced, or cannot be written. An old file stays.
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
    """Write a file; arguments and errors are those of `new_file`."""
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
    """Context manager: yield a new folder, which is moved to `path` when the block ends.

    After an error in the block the folder is removed. The parent of the yielded folder is removed
    in any case: the block may keep temporary files there. The arguments are those of
    `place.folder_to_make`.

    Raises:
        OutputError: The folder must not be replaced, or cannot be written. An old folder stays.
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
            _put_in_place(new, target(), aside=around / "old")


def _put_in_place(new: Path, real: Path, aside: Path) -> None:
    """Move a folder to its name; an old folder of this name goes to `aside`."""
    if real.exists():
        _copy_mode(real, new)
        # A rename cannot replace a folder that has files.
        real.rename(aside)
    try:
        new.rename(real)
    except BaseException:
        if aside.exists():
            aside.rename(real)
        raise
    scratch.sync_folder(real.parent)


@contextmanager
def _as_system_errors() -> Iterator[None]:
    """Context manager that turns errors of the system from Rust libraries into OSError."""
    try:
        yield
    except Exception as reason:
        if not isinstance(reason, OSError) and (number := SYSTEM_ERROR.search(str(reason))):
            raise OSError(int(number[1]), os.strerror(int(number[1]))) from reason
        raise


def _finish(folder: Path) -> None:
    """Sync a folder and its files, with the user's usual permissions.

    Some libraries make files that only their owner can read.
    """
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
    with suppress(OSError):  # a file system without permissions
        new.chmod(stat.S_IMODE(old.stat().st_mode))
