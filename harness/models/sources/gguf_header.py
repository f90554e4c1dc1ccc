"""Check the header of a GGUF file against its tensors, before memory is allocated for it."""

from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader
from transformers import AutoConfig

from harness.models.checkpoints.plausible import SLACK, num_values


class WholeReader(GGUFReader):
    """A reader that stops at the end of the file; the library's may read for ever."""

    def _get(self, offset: int, dtype: Any, count: int = 1, override_order: Any = None) -> Any:
        if (end := offset + np.dtype(dtype).itemsize * int(count)) > len(self.data):
            raise ValueError(f"it must have {end:,} bytes or more, and has {len(self.data):,}")
        return super()._get(offset, dtype, count, override_order)


def check_header(reader: GGUFReader, file: Path) -> None:
    """Check the sizes in the settings against the tensors.

    Raises:
        ValueError: The model would have more layers than the file has tensors, or many times the
            values.
    """
    for name, field in reader.fields.items():
        if name.endswith(".block_count") and (layers := int(field.contents())) > len(
            reader.tensors
        ):
            raise ValueError(f"{name} is {layers}, and the file has {len(reader.tensors)} tensors")
    held = sum(int(tensor.n_elements) for tensor in reader.tensors)
    values = num_values(AutoConfig.from_pretrained(file.parent, gguf_file=file.name))
    if values > SLACK * held:
        raise ValueError(f"its settings make a model of {values:,} values, and it holds {held:,}")
