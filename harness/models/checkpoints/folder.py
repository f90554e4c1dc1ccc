"""Load a folder in the Hugging Face layout: safetensors, config, tokenizer.

Pickled weights are never read. The type of the weights is always passed, because the default of transformers
changed between versions. A tensor that the files lack is an error: transformers would make up a random one.
"""

import hashlib
import os
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import (
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging

from harness.errors import ModelError
from harness.models.architecture import auto_class, check_attention, read_config
from harness.models.checkpoints.folder_files import is_foreign, json_object, weight_files
from harness.models.checkpoints.loading_report import (
    check_loading,
    in_a_line,
    refuse_adapter,
    refuse_untrusted,
    warnings_of,
)
from harness.models.checkpoints.prequantized import FLOATS, damaged_weights, stored_tensors
from harness.models.loaded import Dtype
from harness.models.tokens import without_limits

FILES = ("*.safetensors", "*.json", "*.model", "*.txt", "*.jinja", "*.py")
"""The files of a model: weights, config, tokenizer, chat template, code."""
TOKENIZER = "tokenizer.json"
UNLOADABLE = (
    *(OSError, ValueError, LookupError, RuntimeError, ImportError, SafetensorError),
    # What a config of wrong types or sizes leads to.
    *(
        RecursionError,
        TypeError,
        AttributeError,
        ArithmeticError,
        AssertionError,
        StrictDataclassError,
    ),
)
"""What transformers raises for a damaged or foreign folder."""
SETTLED_NS = 10**9
"""Age of a file whose time of change can be trusted to be another after the next change: systems count it in steps of some milliseconds."""


def load_folder(
    folder: Path,
    *,
    dtype: Dtype,
    device: torch.device,
    trust_remote_code: bool = False,
    attention: str | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast, list[str]]:
    """Return model and tokenizer of a folder, ready for inference, and what a user must know of them.

    `attention` is explained at `read_config`.

    Raises:
        ModelError: The folder has no safetensors weights, needs code that is not trusted, or is damaged, or its tensors are not
            those of the model that config.json describes.
    """
    weight_files(folder)
    refuse_adapter(folder)
    quiet()
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
            ignore_mismatched_sizes=True,  # `check_loading` names them
            **options,
        )
    except UNLOADABLE as reason:
        found = damaged_weights(folder) or in_a_line(reason)
        raise ModelError(
            f"the model folder must be one that transformers loads, got {found} in {folder}; download or save it again"
        ) from reason
    module, loading = found
    warnings = warnings_of(folder, module, check_loading(loading, module, folder))
    _refuse_overflow(module, folder)
    check_attention(module, attention)
    return prepare(module, device), tokenizer, warnings


def _refuse_overflow(module: PreTrainedModel, folder: Path) -> None:
    """Raise ModelError if float16 cannot hold some weight; in the other types no weight of a whole checkpoint is infinite."""
    if module.dtype is not torch.float16:
        return
    for name, parameter in module.named_parameters():
        if parameter.isinf().any():
            raise ModelError(
                f"every weight must be at most {torch.finfo(torch.float16).max:,.0f} in size for model.dtype=float16, got a larger one in "
                f"{name} of {folder}; take model.dtype=bfloat16 or float32"
            )


def load_tokenizer(folder: Path, **options: Any) -> PreTrainedTokenizerFast:
    """Return the tokenizer of a folder, which neither cuts nor pads a text.

    Raises:
        ModelError: It cannot be loaded, or is not a fast one.
    """
    weight_files(folder)
    quiet()
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, **options)
    except Exception as reason:  # the library tokenizers raises Exception itself
        refuse_untrusted(reason, folder)
        raise ModelError(
            "the model folder must have a config and a tokenizer that transformers loads, got "
            f"{_damage(folder) or in_a_line(reason)} in {folder}; download or save it again"
        ) from reason
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ModelError(
            "the tokenizer must be a fast one (tokenizer.json), because word and byte figures need "
            f"its offsets, got {type(tokenizer).__name__} in {folder}"
        )
    return without_limits(tokenizer)


def _damage(folder: Path) -> str | None:
    """Return which file of a tokenizer is missing or damaged, if that can be said."""
    if not (folder / TOKENIZER).is_file():
        return f"no {TOKENIZER}"
    for name in (TOKENIZER, "added_tokens.json"):
        try:
            content = json_object(folder / name) if (folder / name).is_file() else {}
        except ValueError as reason:
            return str(reason).removeprefix("has ")
        if name != TOKENIZER and not all(type(number) is int for number in content.values()):
            return f"a {name} whose values are not token ids"
        if name == TOKENIZER and not isinstance(content.get("model"), dict):
            return f"a {TOKENIZER} without a model in it"
    for file in folder.glob("*.jinja"):
        try:
            file.read_text(encoding="utf-8")
        except ValueError as reason:
            return f"a damaged {file.name}: {reason}"
    return None


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


def prepare(module: PreTrainedModel, device: torch.device) -> PreTrainedModel:
    """Put a model into inference mode on a device."""
    module.to(device)  # type: ignore[arg-type]
    module.train(mode=False)
    module.requires_grad_(False)
    return module


def quiet() -> None:
    """Keep what transformers prints out of sight: its bars, and reports on tensors, of which our own errors and warnings say more.

    Whoever sets `TRANSFORMERS_VERBOSITY` sees what it says.
    """
    if "TRANSFORMERS_VERBOSITY" not in os.environ:
        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        logging.set_verbosity_error()  # type: ignore[no-untyped-call]


def folder_fingerprint(folder: Path) -> str:
    """Return the SHA-256 over the weights, config, tokenizer and code files of a folder.

    Files beside them that are no part of the model have no share in it.
    """
    others = (file for pattern in FILES[1:] for file in folder.glob(pattern))
    digest = hashlib.sha256()
    for file in sorted((*weight_files(folder), *(file for file in others if not is_foreign(file)))):
        name = file.relative_to(folder).as_posix()
        digest.update(f"{name}:{sha256_file(file)}\n".encode())
    return digest.hexdigest()


def sha256_file(file: Path) -> str:
    """Return the SHA-256 of a file, in hex. A large one takes seconds, so it is read again only if it has changed."""
    found = file.stat()
    if time.time_ns() - found.st_ctime_ns < SETTLED_NS:
        return _sha256(file)
    return _settled_sha256(file, found.st_dev, found.st_ino, found.st_size, found.st_ctime_ns)


@lru_cache(maxsize=1024)
def _settled_sha256(file: Path, *_state: int) -> str:
    return _sha256(file)


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
