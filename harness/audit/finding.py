"""What a check found: a line of the file, the kind of fault, and the arithmetic."""

from typing import NamedTuple


class Finding(NamedTuple):
    """One fault. Findings sort by line."""

    line: int
    """Line of the file, from 1 on."""
    check: str
    """The kind of fault in one or two words, such as `mean`."""
    text: str
    """What is wrong, with the numbers that show it."""
