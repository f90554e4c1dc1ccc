"""Questions about paths that a user typed; the functions never raise.

`Path.is_file` raises for a name that is too long, for a name with a null byte, and in a folder that
may not be entered. `Path.expanduser` raises for an unknown user. In all of these cases there is no
such file.
"""

import os.path
from pathlib import Path


def expanded(path: str) -> Path:
    """Return a path with `~` replaced by the home folder, where there is one."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 - the other one raises


def exists(path: Path | str) -> bool:
    """Say whether anything is at a path; an empty text is no path."""
    return os.path.exists(path)  # noqa: PTH110 - the other one raises


def is_file(path: Path) -> bool:
    """Say whether a file is at a path."""
    return os.path.isfile(path)  # noqa: PTH113 - the other one raises


def is_folder(path: Path) -> bool:
    """Say whether a folder is at a path."""
    return os.path.isdir(path)  # noqa: PTH112 - the other one raises
