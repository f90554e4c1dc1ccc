"""The source of GGUF files of llama.cpp, which are loaded through a float copy (`gguf_copy`)."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from harness import extras, paths
from harness.errors import ModelError
from harness.models.checkpoints.folder import load_folder, sha256_file
from harness.models.loaded import Dtype, LoadedModel, ModelSource, Weights
from harness.models.sources.cache_folder import BFLOAT16_COPY, EXACT_COPY


@dataclass(frozen=True, kw_only=True, slots=True)
class GgufModel:
    """A GGUF file on disk, dequantized."""

    weights: ClassVar[Weights] = "pretrained"

    path: str
    """The GGUF file."""
    name: str = "gguf"
    """Name of the model in records and reports."""
    dtype: Dtype = "bfloat16"
    """Type that weights and activations are computed in."""
    baseline: ModelSource | None = None
    """The unquantized model that the file was made of, to compare the file with."""
    attention: str | None = None
    """Attention implementation of transformers; None is `sdpa` where the class has it, else
    `eager`."""

    def fingerprint(self) -> str:
        """Return the SHA-256 of the file and the version of its conversion."""
        return fingerprint_of(sha256_file(self._file()), EXACT_COPY)

    def load(self, device: torch.device) -> LoadedModel:
        """Convert the file unless that is done, and load the copy."""
        loaded = load_gguf(
            self._file(),
            name=self.name,
            dtype=self.dtype,
            device=device,
            attention=self.attention,
        )
        loaded.baseline = self.baseline
        return loaded

    def _file(self) -> Path:
        file = paths.expanded(self.path)
        if not paths.is_file(file):
            raise ModelError(f"model.path must be a GGUF file, got {str(file)!r}; correct the path")
        return file.resolve()


def load_gguf(
    file: Path,
    *,
    name: str,
    dtype: Dtype,
    device: torch.device,
    conversion: str = EXACT_COPY,
    attention: str | None = None,
) -> LoadedModel:
    """Load a GGUF file through its converted copy.

    Args:
        file: The file.
        name: Name of the model in records.
        dtype: Type of the weights.
        device: Where the model is loaded.
        conversion: `EXACT_COPY`, or `BFLOAT16_COPY` for a model that is defined by rounded weights.
        attention: Attention implementation of transformers; see `read_config`.

    Raises:
        ConfigError: The package gguf is missing, or transformers is too old to dequantize.
    """
    with extras.needed("gguf", by="a GGUF file (model=gguf, model=smollm2_135m)"):
        from harness.models.sources import gguf_copy  # noqa: PLC0415 - its package is optional

    sha256 = sha256_file(file)
    folder = gguf_copy.converted_folder(file, sha256, conversion)
    module, tokenizer, warnings = load_folder(
        folder, dtype=dtype, device=device, attention=attention
    )
    loaded = LoadedModel(
        module=module,
        tokenizer=tokenizer,
        name=name,
        dtype=getattr(torch, dtype),
        device=device,
        fingerprint=fingerprint_of(sha256, conversion),
        origin=gguf_copy.origin_of(file),
        warnings=tuple(warnings),
    )
    if conversion == BFLOAT16_COPY:
        loaded.origin += ", rounded to bfloat16"
    else:
        loaded.dequantized = gguf_copy.file_facts(file, loaded)
    return loaded


def fingerprint_of(sha256: str, conversion: str) -> str:
    """Return what identifies the weights of a copy: the hash of the file, and the conversion."""
    return sha256 if conversion == BFLOAT16_COPY else f"{sha256}-{conversion}"
