"""The folder for temporary files; torch and matplotlib cannot be imported without it."""

import tempfile

from harness.errors import OutputError


def check_temporary() -> None:
    """Check that a folder for temporary files can be written.

    Call this before the first import of torch or matplotlib.

    Raises:
        OutputError: No such folder can be written, as on a full disk or in a read-only container.
    """
    try:
        tempfile.gettempdir()
    except FileNotFoundError as reason:
        raise OutputError(
            "TMPDIR must be a folder that can be written, got none, and /tmp, /var/tmp, /usr/tmp "
            "and the current folder cannot be written either; free some space, or set TMPDIR=FOLDER"
        ) from reason
