"""The folder for temporary files, without which torch and matplotlib cannot be imported."""

import tempfile

from harness.errors import OutputError


def check_temporary() -> None:
    """Check that there is such a folder; call this before the first import of torch or matplotlib.

    Raises:
        OutputError: None can be written, as on a full disk or in a container that is read-only.
    """
    try:
        tempfile.gettempdir()
    except FileNotFoundError as reason:
        raise OutputError(
            "TMPDIR must be a folder that can be written, got nothing where /tmp, /var/tmp, /usr/tmp and the current folder cannot "
            "be either; free some space, or set TMPDIR=FOLDER"
        ) from reason
