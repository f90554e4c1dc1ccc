"""Reading and writing safetensors files, one tensor at a time.

A file holds the length of its header (64 bits), the header (JSON: type, shape and place of every
tensor), and the bytes of the tensors. The header follows from the shapes alone, so each tensor is
written as soon as it is made, and none stays in memory.
"""

import json
import math
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO, Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from harness import paths
from harness.errors import DataError

FLOATING = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "F8_E8M0")
"""Types of the file format with one floating-point number for each element."""
MOST_NAMES = 8
"""Largest number of names in an error message."""


class TensorFile:
    """A safetensors file, open for reading."""

    def __init__(self, path: Path) -> None:
        """Open a file.

        Raises:
            DataError: The path is no file, or no safetensors file.
        """
        if not paths.is_file(path):
            raise DataError(f"FILE must be a safetensors file, got {path}, which is not a file")
        try:
            # For a file without read permission safetensors says "no such file"; Python says why.
            path.open("rb").close()
            self._handle: Any = safe_open(path, framework="pt")
        except (SafetensorError, OSError) as reason:
            said = getattr(reason, "strerror", None) or reason
            raise DataError(f"FILE must be a safetensors file, got {path}: {said}") from reason
        self.path = path

    def floating(self, pattern: str) -> tuple[list[str], list[str]]:
        """Return the names of matching floating-point tensors, and of other ones with their types.

        Raises:
            DataError: No floating-point tensor matches.
        """
        present = list(self._handle.keys())
        types = {
            name: self._handle.get_slice(name).get_dtype()
            for name in present
            if fnmatchcase(name, pattern)
        }
        names = [name for name in types if types[name] in FLOATING]
        others = [f"{name} ({types[name]})" for name in types if types[name] not in FLOATING]
        if not names:
            among = others or present
            more = f" and {len(among) - MOST_NAMES} more" if len(among) > MOST_NAMES else ""
            raise DataError(
                f"--tensor must match a floating-point tensor of {self.path}, got {pattern!r}; "
                f"the file has {', '.join(among[:MOST_NAMES]) or 'no tensors'}{more}"
            )
        return names, others

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor, from the header."""
        return tuple(self._handle.get_slice(name).get_shape())

    def read(self, name: str) -> Tensor:
        """Return a tensor as it is stored."""
        tensor: Tensor = self._handle.get_tensor(name)
        return tensor


def header(shapes: Mapping[str, tuple[int, ...]]) -> bytes:
    """Return the header of a file of float32 tensors, which follow in the order of `shapes`."""
    places, start = {}, 0
    for name, shape in shapes.items():
        end = start + 4 * math.prod(shape)
        places[name] = {"dtype": "F32", "shape": shape, "data_offsets": (start, end)}
        start = end
    text = json.dumps(places).encode()
    text += b" " * (-len(text) % 8)  # tensors start at a multiple of 8 bytes
    return len(text).to_bytes(8, "little") + text


def write_tensor(stream: IO[bytes], tensor: Tensor) -> None:
    """Write the bytes of a contiguous float32 tensor."""
    stream.write(tensor.numpy().astype("<f4", copy=False).data)
