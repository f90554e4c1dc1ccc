"""Reading and writing safetensors files, one tensor at a time.

A file is the length of its header (64 bits), the header (JSON: type, shape and place of every tensor), and the bytes of
the tensors. The header of a file to write follows from the shapes alone, so tensors are written as they come and none
has to stay in memory.
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
"""Types of the file format that hold one floating-point number an element."""
SHOWN = 8
"""Names that an error lists at most."""


class TensorFile:
    """A safetensors file, open for reading."""

    def __init__(self, path: Path) -> None:
        """Open a file.

        Raises:
            DataError: It is not there, or is not a safetensors file.
        """
        if not paths.is_file(path):
            raise DataError(f"FILE must be a safetensors file, got {path}, which is not a file")
        try:
            path.open("rb").close()  # of one that may not be read safetensors says "no such file"
            self._handle: Any = safe_open(path, framework="pt")
        except (SafetensorError, OSError) as reason:
            said = getattr(reason, "strerror", None) or reason
            raise DataError(f"FILE must be a safetensors file, got {path}: {said}") from reason
        self.path = path

    def floating(self, pattern: str) -> tuple[list[str], list[str]]:
        """Return the floating-point tensors whose names match, and what else matches, with its type.

        Raises:
            DataError: There is no floating-point tensor among them.
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
            more = f" and {len(among) - SHOWN} more" if len(among) > SHOWN else ""
            raise DataError(
                f"--tensor must match a floating-point tensor of {self.path}, got {pattern!r}; "
                f"the file has {', '.join(among[:SHOWN]) or 'no tensors'}{more}"
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
    """Return the beginning of a file of float32 tensors, which must follow in the same order."""
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
