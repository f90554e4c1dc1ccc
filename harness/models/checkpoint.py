"""Load a folder in the Hugging Face layout: safetensors, config, tokenizer.

Pickled weights are never read. The type of the weights is always passed, because the default of transformers
changed between versions, and checked afterwards.
"""

import hashlib
import json
import sys
from functools import lru_cache
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging

from harness.errors import ModelError
from harness.models.source import Dtype


def load_folder(
    folder: Path, *, dtype: Dtype, device: torch.device, trust_remote_code: bool = False
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Return model and tokenizer of a folder, ready for inference.

    Raises:
        ModelError: The folder has no safetensors weights, needs code that is not trusted, or is damaged.
    """
    check_weights(folder)
    quiet_unless_terminal()
    options = {"trust_remote_code": trust_remote_code, "local_files_only": True}
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, **options)
        module = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            attn_implementation="sdpa",
            **options,
        )
    except (OSError, ValueError, KeyError) as reason:
        raise ModelError(
            f"the model folder must be one that transformers loads, got {folder}: {reason}"
        ) from reason
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ModelError(
            "the tokenizer must be a fast one (tokenizer.json), because word and byte figures need "
            f"its offsets, got {type(tokenizer).__name__} in {folder}"
        )
    if getattr(module, "hf_quantizer", None) is not None:
        raise ModelError(
            f"the checkpoint must hold float weights, got a quantized one in {folder}; "
            "quantization is what the recipe does"
        )
    return prepare(module, device), tokenizer


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


def check_weights(folder: Path) -> None:
    """Raise ModelError unless the folder has a config and every safetensors file that its index names."""
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"a model folder must hold config.json, got {folder} without one; "
            "pass the folder that save_pretrained wrote"
        )
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        if missing := sorted(shard for shard in shards if not (folder / shard).is_file()):
            raise ModelError(
                f"a model folder must hold every file of its index, got {folder} without {missing}; "
                "download them again"
            )
    elif not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"a model folder must hold *.safetensors (pickled weights are never loaded), got {folder} "
            "without one; convert it with save_pretrained"
        )


@lru_cache(maxsize=16)
def folder_fingerprint(folder: Path) -> str:
    """Return the SHA-256 over the weights, config and tokenizer files of a folder."""
    check_weights(folder)
    digest = hashlib.sha256()
    for file in sorted([*folder.glob("*.safetensors"), *folder.glob("*.json")]):
        digest.update(f"{file.name}:{sha256_file(file)}\n".encode())
    return digest.hexdigest()


def sha256_file(file: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
