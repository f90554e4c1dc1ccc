"""Load a folder in the Hugging Face layout: safetensors, config, tokenizer.

Pickled weights are never read. The type of the weights is always passed, because the default of transformers
changed between versions. A tensor that the files lack is an error: transformers would make up a random one.
"""

import hashlib
import json
import sys
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging

from harness.errors import ModelError
from harness.models.architecture import auto_class, check_attention, read_config
from harness.models.prequantized import FLOATS, stored_tensors
from harness.models.source import Dtype

FILES = ("*.safetensors", "*.json", "*.model", "*.txt", "*.jinja", "*.py")
"""The files of a model: weights, config, tokenizer, chat template, code."""
UNLOADABLE = (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError)
"""What transformers raises for a damaged or foreign folder."""


def load_folder(
    folder: Path,
    *,
    dtype: Dtype,
    device: torch.device,
    trust_remote_code: bool = False,
    attention: str | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Return model and tokenizer of a folder, ready for inference.

    `attention` is explained at `read_config`.

    Raises:
        ModelError: The folder has no safetensors weights, needs code that is not trusted, or is damaged.
    """
    check_weights(folder)
    quiet_unless_terminal()
    options = {"trust_remote_code": trust_remote_code, "local_files_only": True}
    tokenizer = load_tokenizer(folder, **options)
    _refuse_codes(folder)
    try:
        config = read_config(folder, attention, **options)
        found: Any = auto_class(config).from_pretrained(
            folder,
            config=config,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            output_loading_info=True,
            **options,
        )
    except UNLOADABLE as reason:
        raise ModelError(
            f"the model folder must be one that transformers loads, got {folder}: {reason}"
        ) from reason
    module, loading = found
    check_complete(loading, folder)
    check_attention(module, attention)
    return prepare(module, device), tokenizer


def load_tokenizer(folder: Path, **options: Any) -> PreTrainedTokenizerFast:
    """Return the tokenizer of a folder.

    Raises:
        ModelError: It cannot be loaded, or is not a fast one.
    """
    check_weights(folder)
    quiet_unless_terminal()
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, **options)
    except UNLOADABLE as reason:
        raise ModelError(
            f"the model folder must have a tokenizer that transformers loads, got {folder}: {reason}"
        ) from reason
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ModelError(
            "the tokenizer must be a fast one (tokenizer.json), because word and byte figures need "
            f"its offsets, got {type(tokenizer).__name__} in {folder}"
        )
    return tokenizer


def _refuse_codes(folder: Path) -> None:
    """Raise ModelError for codes that would be taken for weights, because `config.json` does not say what they are."""
    codes = [
        f"{key} ({tensor.dtype})"
        for key, tensor in stored_tensors(folder).items()
        if key.endswith(".weight") and tensor.dtype not in FLOATS
    ]
    if codes:
        raise ModelError(
            f"float weights must be stored as {', '.join(sorted(FLOATS))}, got {len(codes)} others in {folder}, such as "
            f"{codes[0]}; if the checkpoint is quantized, config.json must have its quantization_config"
        )


def check_complete(loading: Mapping[str, Any], source: Path) -> None:
    """Raise ModelError if transformers found no values for some weights of a model."""
    if missing := sorted(loading["missing_keys"]):
        shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise ModelError(
            f"every weight of the model must be in its files, but {source} lacks {len(missing)}: {shown}; "
            "download or convert it again"
        )


def prepare(module: PreTrainedModel, device: torch.device) -> PreTrainedModel:
    """Put a model into inference mode on a device."""
    module.to(device)  # type: ignore[arg-type]
    module.train(mode=False)
    module.requires_grad_(False)
    return module


def quiet_unless_terminal() -> None:
    """Keep the progress bars of transformers out of log files."""
    if not sys.stderr.isatty():
        logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def missing_files(folder: Path) -> str | None:
    """Return what a folder lacks to be a model: config, weights as safetensors, every file of their index; or None."""
    if not (folder / "config.json").is_file():
        return "has no config.json"
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, AttributeError, TypeError):
            return f"has a damaged {index.name}"
        absent = sorted(shard for shard in shards if not (folder / shard).is_file())
        return (
            f"has an index that names {', '.join(absent)}, but not these files" if absent else None
        )
    if not any(folder.glob("*.safetensors")):
        return "has no *.safetensors (pickled weights are never loaded)"
    return None


def check_weights(folder: Path) -> None:
    """Raise ModelError unless the folder is a whole model."""
    if lack := missing_files(folder):
        raise ModelError(
            f"a model folder must be one that save_pretrained wrote, but {folder} {lack}; "
            "download or save it again"
        )


@lru_cache(maxsize=16)
def folder_fingerprint(folder: Path) -> str:
    """Return the SHA-256 over the weights, config, tokenizer and code files of a folder."""
    check_weights(folder)
    digest = hashlib.sha256()
    for file in sorted(file for pattern in FILES for file in folder.glob(pattern)):
        digest.update(f"{file.name}:{sha256_file(file)}\n".encode())
    return digest.hexdigest()


def sha256_file(file: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
