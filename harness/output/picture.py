"""Pictures that say in a field of the PNG what wrote them, so that the same command may write them again."""

from pathlib import Path
from types import MappingProxyType

SOFTWARE = b"Software\0"
METADATA = MappingProxyType({"Software": "quant-harness"})
"""What to give `savefig`, which else names the version of matplotlib."""
HEAD = 200
"""Bytes from the beginning that hold the field."""


def is_own(path: Path) -> bool:
    """Say whether the harness drew a picture; older pictures have the field, and nothing in it."""
    with path.open("rb") as stream:
        head = stream.read(HEAD)
    before, field, after = head.partition(b"tEXt" + SOFTWARE)
    if not field or not before.startswith(b"\x89PNG"):
        return False
    size = int.from_bytes(before[-4:], "big") - len(SOFTWARE)
    value = after[: max(size, 0)]
    return len(value) == size and value in (b"", METADATA["Software"].encode())
