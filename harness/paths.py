"""Questions about paths that a user typed, which never raise.

`Path.is_file` raises for a name that is too long, for one in a folder that may not be entered, and with a null byte;
`Path.expanduser` raises for a user who is not there. To whoever typed the path, all of these mean that there is no such file.
"""

import os.path
from pathlib import Path


def expanded(path: str) -> Path:
    """Return a path with `~` replaced by the home folder, where there is one."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 - the other one raises


def exists(path: Path | str) -> bool:
    """Say whether a path leads to anything that can be seen; an empty text does not."""
    return os.path.exists(path)  # noqa: PTH110 - the other one raises


def is_file(path: Path) -> bool:
    """Say whether a path leads to a file that can be seen."""
    return os.path.isfile(path)  # noqa: PTH113 - the other one raises


def is_folder(path: Path) -> bool:
    """Say whether a path leads to a folder that can be seen."""
    return os.path.isdir(path)  # noqa: PTH112 - the other one raises
