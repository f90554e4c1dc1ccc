"""The mark of PNG pictures that the harness drew: the same command may overwrite them."""

from pathlib import Path
from types import MappingProxyType

SOFTWARE = b"Software\0"
METADATA = MappingProxyType({"Software": "quant-harness"})
"""Metadata for `savefig`, in place of the version of matplotlib."""
HEAD = 200
"""The mark lies within so many bytes of the beginning."""


def is_own(path: Path) -> bool:
    """Say whether the harness drew a picture. Older versions left the field empty."""
    with path.open("rb") as stream:
        head = stream.read(HEAD)
    before, field, after = head.partition(b"tEXt" + SOFTWARE)
    if not field or not before.startswith(b"\x89PNG"):
        return False
    # A chunk of PNG: four bytes of length, `tEXt`, keyword, null, value.
    size = int.from_bytes(before[-4:], "big") - len(SOFTWARE)
    value = after[: max(size, 0)]
    return len(value) == size and value in (b"", METADATA["Software"].encode())
