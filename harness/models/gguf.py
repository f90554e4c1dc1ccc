"""GGUF files (llama.cpp), converted once to float safetensors.

transformers 5 keeps GGUF blocks packed unless told to dequantize, and dequantizing takes longer than any short run.
So a file is converted once: to bfloat16 safetensors in a cache folder named by the file's hash, written beside and
moved into place, under a lock, so that a conversion that was killed is never taken for a model.

A quantized GGUF file is not an unquantized reference: its float weights are the dequantized codes, and
`LoadedModel.origin` says so in every record.
"""

import logging
import os
import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from filelock import FileLock
from gguf import GGUFReader
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from harness.errors import ModelError
from harness.identity import later
from harness.models.checkpoint import (
    UNLOADABLE,
    check_complete,
    load_folder,
    quiet_unless_terminal,
    sha256_file,
)
from harness.models.source import Dtype, LoadedModel, Weights

log = logging.getLogger(__name__)

CONVERSION = "v1"
"""Part of the cache key: change it when the conversion changes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GgufModel:
    """A GGUF file on disk."""

    weights: ClassVar[Weights] = "pretrained"

    path: str
    name: str = "gguf"
    dtype: Dtype = "bfloat16"
    attention: str | None = later(None)
    """Attention implementation of transformers; None is `sdpa` where the architecture has it, else `eager`."""

    def fingerprint(self) -> str:
        """Return the SHA-256 of the file."""
        return sha256_file(self._file())

    def load(self, device: torch.device) -> LoadedModel:
        """Convert the file if that was not done before, and load the result."""
        return load_gguf(
            self._file(),
            name=self.name,
            dtype=self.dtype,
            device=device,
            attention=self.attention,
        )

    def _file(self) -> Path:
        file = Path(self.path).expanduser().resolve()
        if not file.is_file():
            raise ModelError(f"model.path must be a GGUF file, got {str(file)!r}; correct the path")
        return file


def load_gguf(
    file: Path, *, name: str, dtype: Dtype, device: torch.device, attention: str | None = None
) -> LoadedModel:
    """Load a GGUF file through its converted copy."""
    fingerprint = sha256_file(file)
    folder = converted(file, fingerprint)
    module, tokenizer = load_folder(folder, dtype=dtype, device=device, attention=attention)
    return LoadedModel(
        module=module,
        tokenizer=tokenizer,
        name=name,
        dtype=getattr(torch, dtype),
        device=device,
        fingerprint=fingerprint,
        origin=describe(file),
    )


def cache_folder() -> Path:
    """Return the folder for downloads and conversions: `$HARNESS_CACHE`, or the user's cache."""
    root = os.environ.get("HARNESS_CACHE")
    if root:
        return Path(root).expanduser()
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "quant-harness"


def converted(file: Path, sha256: str) -> Path:
    """Return the folder of the file's bfloat16 copy, making it if need be."""
    folder = cache_folder() / f"gguf-{CONVERSION}-{sha256[:16]}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            log.info("converting %s to bfloat16 safetensors, once (about 20 s)", file.name)
            scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix="converting-"))
            try:
                _convert(file, scratch)
                scratch.replace(folder)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
    return folder


def _convert(file: Path, target: Path) -> None:
    quiet_unless_terminal()
    try:
        if GGUFReader(file).get_field("general.architecture") is None:
            raise ValueError("it does not name an architecture")
        found: Any = AutoModelForCausalLM.from_pretrained(
            file.parent,
            gguf_file=file.name,
            dtype=torch.float32,
            quantization_config=GgufConfig(dequantize=True),
            output_loading_info=True,
        )
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    except UNLOADABLE as reason:
        raise ModelError(
            f"model.path must be a GGUF file that transformers can dequantize, got {file}: {reason}"
        ) from reason
    module, loading = found
    check_complete(loading, file)
    module.to(torch.bfloat16)
    module.save_pretrained(target)
    tokenizer.save_pretrained(target)


def describe(file: Path) -> str:
    """Return what the float weights are, such as `dequantized GGUF (211 x Q4_1, 61 x F32)`."""
    kinds = Counter(tensor.tensor_type.name for tensor in GGUFReader(file).tensors)
    return f"dequantized GGUF ({', '.join(f'{n} x {kind}' for kind, n in kinds.most_common())})"
