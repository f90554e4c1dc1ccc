"""Type and size of each tensor in a folder, from the headers of the files; no weight is read."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

from safetensors import SafetensorError, safe_open

from harness.models.checkpoints.folder_files import weight_files

FLOAT_TYPES = {"F16", "BF16", "F32", "F64"}
"""Types of float weights, under the names of safetensors."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredTensor:
    """A tensor in a file."""

    dtype: str
    """Type under the name of safetensors, such as `BF16` or `I32`."""
    numel: int
    nbytes: int


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Return the tensors in a folder's weights files, by name; a damaged file counts as empty."""
    found: dict[str, StoredTensor] = {}
    for file in weight_files(folder):
        try:
            with safe_open(file, "pt") as opened:
                for key in opened.keys():  # noqa: SIM118 - no mapping
                    part = opened.get_slice(key)
                    found[key] = _from_header(part.get_dtype(), part.get_shape())
        except (OSError, SafetensorError):
            continue
    return found


def _from_header(dtype: str, shape: list[int]) -> StoredTensor:
    # `F8_E4M3` has 8 bits, not 843: only digits before the underscore count.
    digits = "".join(character for character in dtype.partition("_")[0] if character.isdigit())
    bits = 8 if dtype == "BOOL" else int(digits)
    return StoredTensor(dtype=dtype, numel=prod(shape), nbytes=prod(shape) * bits // 8)


def float_weights(tensors: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """Return weights and biases that are stored as floats, without anything that codes need."""
    owners = {key.rpartition(".")[0] for key in tensors}
    return {
        key: tensor
        for key, tensor in tensors.items()
        if key.rpartition(".")[2] in ("weight", "bias")
        and tensor.dtype in FLOAT_TYPES
        # bitsandbytes may store codes in a float type. Their statistics then have names that begin
        # with the name of the weight.
        and key not in owners
    }


def damaged_weights(folder: Path) -> str | None:
    """Return the first weights file that cannot be read, and why; None if all can."""
    for file in weight_files(folder):
        try:
            file.open("rb").close()  # safetensors calls a file without permission missing
            with safe_open(file, "pt"):
                pass
        except (OSError, SafetensorError) as reason:
            return f"a damaged {file.name} ({reason})"
    return None
