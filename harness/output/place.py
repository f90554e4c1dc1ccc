"""Where the harness may write: checked before minutes of work, and again before the final move.

- An existing file is replaced only if the user asked for it or the harness wrote it.
- A device, a pipe, a socket or a link to nothing is never replaced.
- A link to a file stands for the file, as in a shell: the file is written, and the link stays.
"""

import errno
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from harness.errors import OutputError
from harness.output import scratch
from harness.output.names import LONGEST

Noun = Literal["file", "folder"]
FILE, FOLDER = "a file", "a folder"
FILE_KINDS = (
    (stat.S_ISREG, FILE),
    (stat.S_ISDIR, FOLDER),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
)
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of a full disk."""
PROBE_BLOCK = b"\0" * 4096
"""What `check_room` writes. Some full disks still make empty files: a test needs data."""


def not_own(_: Path) -> bool:
    """Return False: no existing file counts as written by the harness."""
    return False


def file_to_write(
    path: Path,
    option: str,
    noun: Noun = "file",
    *,
    force: bool = False,
    is_own: Callable[[Path], bool] = not_own,
) -> Path:
    """Check that a file may be written to `path`; return `path`, or the file that it links to.

    Args:
        path: Where to write the file.
        option: The option that names the place, such as `--out`.
        noun: Whether the option names the file itself or the folder around it.
        force: Whether the user allowed the harness to replace an existing file.
        is_own: Says whether the harness wrote an existing file, which it may then replace.

    Raises:
        OutputError: `path` is something other than a file, or a file that must not be replaced.
    """
    another = f"name another ({_typed(option, noun)})"
    with explained(path, option, noun):
        _refuse_system(path, option, noun)
        what, real = found(path), real_path(path)
        if what not in (None, FILE):
            raise OutputError(
                f"{option} must lead to a file, got {path}, which is {what}; {another}"
            )
        if what == FILE and not force and not is_own(real):
            raise OutputError(
                f"{option} must lead to a new file, got {path}, which exists; {another}, or add "
                f"{_force(option)} to overwrite it"
            )
        if what == FILE:  # opened as a test: a rename would replace a write-protected file
            os.close(os.open(real, os.O_WRONLY))
    return real


def folder_to_fill(path: Path, option: str) -> None:
    """Check that `path` is a folder or does not exist; the command adds files to the folder.

    Raises:
        OutputError: `path` is something other than a folder.
    """
    with explained(path, option, "folder"):
        _refuse_system(path, option, "folder")
        if (what := found(path)) not in (None, FOLDER):
            raise OutputError(
                f"{option} must be a folder that can be written, got {path}, which is {what}; name "
                "another"
            )


def folder_to_make(
    path: Path, option: str, *, force: bool = False, is_own: Callable[[Path], bool] = not_own
) -> Path:
    """Check that a whole folder may be written to `path`; return `path`, or what it links to.

    Args:
        path: Where to write the folder.
        option: The option that names the place, such as `out`.
        force: Whether the user allowed the harness to replace a folder that it wrote.
        is_own: Says whether the harness wrote all files of an existing folder.

    Raises:
        OutputError: `path` is something other than a folder, or a folder that must not be replaced.
    """
    must = f"{option} must be a folder that does not exist or is empty, got {path}"
    with explained(path, option, "folder"):
        _refuse_system(path, option, "folder")
        what, real = found(path), real_path(path)
        if what not in (None, FOLDER):
            raise OutputError(f"{must}, which is {what}; name another")
        if what is None:
            return real
        if real == Path.cwd() or os.path.ismount(real):
            held = "the current folder" if real == Path.cwd() else "a mount point"
            raise OutputError(
                f"{option} must be a folder that can be replaced, got {path}, which is {held}; "
                f"name one in it, such as {path / 'model'}"
            )
        if not any(real.iterdir()) or (force and is_own(real)):
            return real
        if is_own(real):
            raise OutputError(
                f"{must}, which the harness wrote; name another, or add {_force(option)} to "
                "replace it"
            )
    raise OutputError(
        f"{must}, which has files that the harness did not write; name another, or remove it"
    )


def check_room(path: Path, option: str, noun: Noun, *, within: Path, size: int = 0) -> None:
    """Check that a file or folder can be written.

    A small file is written and removed, and the free space is compared with `size`.

    Args:
        path: The file or folder that will be written; messages name it.
        option: The option that names it.
        noun: Whether it is a file or a folder.
        within: The folder that gets a new entry. If it does not exist, the small file is written to
            the nearest folder above it, and the names of the missing folders are checked.
        size: Space that is needed [byte].

    Raises:
        OutputError: The folder cannot be written or made, a name is too long, or the disk is full.
    """
    with explained(path, option, noun):
        real = real_path(within)
        base = next(folder for folder in (real, *real.parents) if folder.exists())
        names = [*real.relative_to(base).parts, path.name]
        if any(len(os.fsencode(name)) > LONGEST for name in names):
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        with scratch.file_in(base) as (_, stream):
            stream.write(PROBE_BLOCK)
            scratch.sync(stream)
        disk = shutil.disk_usage(base)
    if disk.total and disk.free < size:  # some file systems report a size of 0
        raise OutputError(
            f"{option} must have room for {_in_bytes(size)}, got {path} with "
            f"{_in_bytes(disk.free)} free; free some space, or name another "
            f"({_typed(option, noun)})"
        )


@contextmanager
def explained(path: Path, option: str, noun: Noun) -> Iterator[None]:
    """Context manager that turns a system error at a path into one line that names the option.

    Raises:
        OutputError: The path, a folder above it or a file beside it cannot be read or written.
        OSError: A file elsewhere cannot be read or written.
    """
    try:
        yield
    except OSError as reason:
        names = [os.fsdecode(name) for name in (reason.filename, reason.filename2) if name]
        if names and not any(_is_beside(Path(name), path) for name in names):
            raise
        raise _unwritable(path, option, noun, reason) from reason


def found(path: Path) -> str | None:
    """Return what is at a path or behind its link, such as `a device`; None if nothing is there."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return None
    if stat.S_ISLNK(mode):
        try:
            mode = real_path(path).stat().st_mode
        except OSError:  # nothing there, a circle of links, or a pipe without a name
            return "a link to nothing"
    return next((words for is_kind, words in FILE_KINDS if is_kind(mode)), "no regular file")


def real_path(path: Path) -> Path:
    """Return the absolute path without links; `Path.resolve` fails for a circle of links."""
    return Path(os.path.realpath(path))


def _is_beside(name: Path, path: Path) -> bool:
    """Say whether a name lies in the folder of a path or above it, or is temporary."""
    name, folder = real_path(name), real_path(path).parent
    is_scratch = name.name.startswith(scratch.PREFIX)
    return is_scratch or name.is_relative_to(folder) or folder.is_relative_to(name)


def _unwritable(path: Path, option: str, noun: Noun, reason: OSError) -> OutputError:
    space = "free some space, or " if reason.errno in FULL else ""
    return OutputError(
        f"{option} must be a {noun} that can be written, got {path}: {reason.strerror or reason}; "
        f"{space}name another ({_typed(option, noun)})"
    )


def _refuse_system(path: Path, option: str, noun: Noun) -> None:
    """Raise OutputError for a path of the kernel: /dev/stdout, /proc/x; /dev/shm is a folder."""
    real, parent, dev = real_path(path), real_path(path.parent), Path("/dev")
    is_device = real == dev or (parent == dev and not path.is_dir())
    if is_device or any(
        p.is_relative_to(root) for p in (real, parent) for root in ("/proc", "/sys")
    ):
        raise OutputError(
            f"{option} must be a {noun} on a disk, got {path}, which belongs to the operating "
            f"system; name another ({_typed(option, noun)})"
        )


def _in_bytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size >= 10**5 else f"{size:,} bytes"


def _typed(option: str, noun: Noun) -> str:
    """Return how an option is typed, such as `--out FILE` or `results_dir=FOLDER`."""
    return f"{option}{' ' if option.startswith('--') else '='}{noun.upper()}"


def _force(option: str) -> str:
    return "--force" if option.startswith("--") else "force=true"
