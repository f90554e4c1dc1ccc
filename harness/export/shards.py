"""Write tensors to safetensors files of limited size, as they come.

The number of files is known at the end. Then they get the names that readers expect:
`model.safetensors`, or `model-00001-of-00003.safetensors` and so on, with an index that says which
file holds which tensor.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from harness.models.checkpoints.folder_files import INDEX_FILE, WEIGHTS_FILE


class ShardWriter:
    """Writes the tensors of a checkpoint; memory holds at most one file's worth."""

    def __init__(self, folder: Path, limit: int) -> None:
        """Write into `folder`, at most `limit` bytes a file, unless a single tensor is larger."""
        self._folder = folder
        self._limit = limit
        self._pending: dict[str, Tensor] = {}
        self._pending_bytes = 0
        self._shards: list[list[str]] = []
        self.total_bytes = 0
        """Size of all tensors so far [byte]."""

    def add(self, tensors: Mapping[str, Tensor]) -> int:
        """Write tensors, by full name; return their size [byte]."""
        size = 0
        for name, tensor in tensors.items():
            if self._pending and self._pending_bytes + tensor.nbytes > self._limit:
                self._flush()
            # Contiguous, because a view would write all of its base; on the CPU, to free a GPU.
            self._pending[name] = tensor.detach().to("cpu", memory_format=torch.contiguous_format)
            self._pending_bytes += tensor.nbytes
            size += tensor.nbytes
        self.total_bytes += size
        return size

    def close(self) -> list[Path]:
        """Write what is pending, give the files their names, and return them."""
        self._flush()
        count = len(self._shards)
        if count == 1:
            return [self._part(0).rename(self._folder / WEIGHTS_FILE)]
        names = [f"model-{i + 1:05}-of-{count:05}.safetensors" for i in range(count)]
        files = [self._part(i).rename(self._folder / name) for i, name in enumerate(names)]
        index = {
            "metadata": {"total_size": self.total_bytes},
            "weight_map": {
                tensor: name
                for name, shard in zip(names, self._shards, strict=True)
                for tensor in shard
            },
        }
        text = json.dumps(index, indent=2, sort_keys=True) + "\n"
        (self._folder / INDEX_FILE).write_text(text, encoding="utf-8")
        return files

    def _part(self, i: int) -> Path:
        return self._folder / f"part-{i}"

    def _flush(self) -> None:
        if not self._pending:
            return
        file = self._part(len(self._shards))
        # transformers refuses files that do not say what wrote them.
        save_file(self._pending, file, metadata={"format": "pt"})
        self._shards.append(list(self._pending))
        self._pending, self._pending_bytes = {}, 0
