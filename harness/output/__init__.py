"""Where the harness may write, and how it writes whole files and folders.

`names` turns what a user typed into a path. `place` checks the path before any work is done, and
`atomic` writes: a file or folder appears under its name only when it is whole. Both use `scratch`,
the files with temporary names. `lock` lets processes take turns, `picture` marks PNG files as ours,
`stdout` and `redacted_streams` handle what a command prints, `temporary` checks TMPDIR. Messages
name the option that the user typed. No torch, no records, no reports.
"""

from harness.output.atomic import new_file, new_folder, write_atomic
from harness.output.lock import locked
from harness.output.names import local_path

__all__ = ["local_path", "locked", "new_file", "new_folder", "write_atomic"]
