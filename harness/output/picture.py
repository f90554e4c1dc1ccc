"""Mark PNG pictures as drawn by the harness, so that the same command may overwrite them."""

from pathlib import Path
from types import MappingProxyType

SOFTWARE = b"Software\0"
METADATA = MappingProxyType({"Software": "quant-harness"})
"""Metadata for `savefig`, which otherwise writes the version of matplotlib."""
HEAD = 200
"""The field lies within so many bytes of the beginning."""


def is_own(path: Path) -> bool:
    """Say whether the harness drew a picture. Older versions of the harness left the field empty."""
    with path.open("rb") as stream:
        head = stream.read(HEAD)
    before, field, after = head.partition(b"tEXt" + SOFTWARE)
    if not field or not before.startswith(b"\x89PNG"):
        return False
    size = int.from_bytes(before[-4:], "big") - len(SOFTWARE)
    value = after[: max(size, 0)]
    return len(value) == size and value in (b"", METADATA["Software"].encode())
