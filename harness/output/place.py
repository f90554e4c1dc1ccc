"""What may be written where: checks before minutes of work, and again before anything is put in place.

What is there already is never replaced unasked, and what is no regular file is never replaced at all: a device, a pipe, a socket,
a link to nothing. A link to a file stands for that file, as for a shell: the link stays, and the file it leads to is written.
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
KINDS = (
    (stat.S_ISREG, FILE),
    (stat.S_ISDIR, FOLDER),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
)
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors that more room would cure."""
PROBE = b"\0" * 4096
"""Written and removed: a block of data, since some full disks still make empty files."""


def not_own(_: Path) -> bool:
    """Say of nothing that the harness wrote it."""
    return False


def file_to_write(
    path: Path,
    option: str,
    noun: Noun = "file",
    *,
    force: bool = False,
    is_own: Callable[[Path], bool] = not_own,
) -> Path:
    """Return the file that writing to `path` makes or replaces: itself, or what it links to.

    Args:
        path: Where the file shall be.
        option: What the user typed it for, such as `--out`.
        noun: What the option names: this file, or the folder that it lies in.
        force: Whether he said that an existing file may be replaced.
        is_own: Whether an existing file is one that the harness wrote, and may replace unasked.

    Raises:
        OutputError: Something else than a file is there, or a file that must not be replaced.
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
                f"{option} must lead to a new file, got {path}, which exists; {another}, or add {_force(option)} to overwrite it"
            )
        if (
            what == FILE
        ):  # moving another into its place would be allowed for a file that may not be written
            os.close(os.open(real, os.O_WRONLY))
    return real


def folder_to_fill(path: Path, option: str) -> None:
    """Check a folder that files are put into, beside others.

    Raises:
        OutputError: Something else is there.
    """
    with explained(path, option, "folder"):
        _refuse_system(path, option, "folder")
        if (what := found(path)) not in (None, FOLDER):
            raise OutputError(
                f"{option} must be a folder that can be written, got {path}, which is {what}; name another"
            )


def folder_to_make(
    path: Path, option: str, *, force: bool = False, is_own: Callable[[Path], bool] = not_own
) -> Path:
    """Return the folder that writing to `path` makes or replaces as a whole: itself, or what it links to.

    Args:
        path: Where the user wants the folder.
        option: What he typed it for, such as `out`.
        force: Whether he said that a folder of the harness may be replaced.
        is_own: Whether a folder holds what the harness wrote, and nothing else.

    Raises:
        OutputError: Something else is there, or a folder that must not be replaced.
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
                f"{option} must be a folder that can be replaced, got {path}, which is {held}; name one in it, "
                f"such as {path / 'model'}"
            )
        if not any(real.iterdir()) or (force and is_own(real)):
            return real
        if is_own(real):
            raise OutputError(
                f"{must}, which the harness wrote; name another, or add {_force(option)} to replace it"
            )
    raise OutputError(
        f"{must}, which has files that the harness did not write; name another, or remove it"
    )


def check_room(path: Path, option: str, noun: Noun, *, within: Path, size: int = 0) -> None:
    """Check that so many bytes can be written, by writing a little; nothing remains.

    Args:
        path: What will be written, for the message.
        option: What it was typed for.
        noun: Whether it is a file or a folder.
        within: The folder that gets a new entry. It need not exist: then one that does is tried, and the names below it.
        size: What it takes at least [byte].

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
            stream.write(PROBE)
            scratch.sync(stream)
        disk = shutil.disk_usage(base)
    if disk.total and disk.free < size:  # some file systems know no sizes
        raise OutputError(
            f"{option} must have room for {_spell(size)}, got {path} with {_spell(disk.free)} free; free some space, or "
            f"name another ({_typed(option, noun)})"
        )


@contextmanager
def explained(path: Path, option: str, noun: Noun) -> Iterator[None]:
    """Turn an error of the operating system at a path into one line that names the option.

    Raises:
        OutputError: The path, its folders or what is in them cannot be read or written.
        OSError: Another file cannot; this says nothing of the path.
    """
    try:
        yield
    except OSError as reason:
        names = [os.fsdecode(name) for name in (reason.filename, reason.filename2) if name]
        if names and not any(_is_beside(Path(name), path) for name in names):
            raise
        raise _unwritable(path, option, noun, reason) from reason


def found(path: Path) -> str | None:
    """Return what lies at a path, or where its link leads; None if nothing does."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return None
    if stat.S_ISLNK(mode):
        try:
            mode = real_path(path).stat().st_mode
        except OSError:  # nothing, a circle of links, or a pipe that has no name
            return "a link to nothing"
    return next((words for is_kind, words in KINDS if is_kind(mode)), "no regular file")


def real_path(path: Path) -> Path:
    """Return the absolute path without links; unlike `Path.resolve` it knows one in a circle of links too."""
    return Path(os.path.realpath(path))


def _is_beside(name: Path, path: Path) -> bool:
    """Say whether a file lies in the folder of a path, is one of its folders, or was made to write there."""
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
    """Raise OutputError for a path of the kernel's, such as /dev/stdout or /proc/x; /dev/shm keeps files like any other folder."""
    real, parent, dev = real_path(path), real_path(path.parent), Path("/dev")
    is_device = real == dev or (parent == dev and not path.is_dir())
    if is_device or any(
        p.is_relative_to(root) for p in (real, parent) for root in ("/proc", "/sys")
    ):
        raise OutputError(
            f"{option} must be a {noun} on a disk, got {path}, which belongs to the operating system; name another "
            f"({_typed(option, noun)})"
        )


def _spell(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size >= 10**5 else f"{size:,} bytes"


def _typed(option: str, noun: Noun) -> str:
    """Return how an option is typed, such as `--out FILE` or `results_dir=FOLDER`."""
    return f"{option}{' ' if option.startswith('--') else '='}{noun.upper()}"


def _force(option: str) -> str:
    return "--force" if option.startswith("--") else "force=true"
