"""Load an unquantized folder in the layout of Hugging Face: safetensors, config, tokenizer.

Pickled weights are never read. The type of the weights is always passed, because the default of
transformers changed between versions. A tensor that the files lack is an error: transformers would
draw a random one.
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
    check_adapter,
    check_loading,
    check_trust,
    error_line,
)
from harness.models.checkpoints.loading_warnings import loading_warnings
from harness.models.checkpoints.stored_tensors import FLOAT_TYPES, damaged_weights, stored_tensors
from harness.models.loaded import Dtype
from harness.models.tokens import without_limits

MODEL_FILES = ("*.safetensors", "*.json", "*.model", "*.txt", "*.jinja", "*.py")
"""The files of a model: weights, config, tokenizer, chat template, code."""
TOKENIZER_FILE = "tokenizer.json"
UNLOADABLE = (
    *(OSError, ValueError, LookupError, RuntimeError, ImportError, SafetensorError),
    # A config with wrong types or sizes leads to these.
    *(RecursionError, TypeError, AttributeError, ArithmeticError, AssertionError),
    StrictDataclassError,
)
"""What transformers raises for a damaged or foreign folder."""
SETTLED_NS = 10**9
"""Age at which the change time of a file identifies its content: some systems count it in steps of
milliseconds, so that a file that was just written may change again without a new time."""


def load_folder(
    folder: Path,
    *,
    dtype: Dtype,
    device: torch.device,
    trust_remote_code: bool = False,
    attention: str | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast, list[str]]:
    """Return model and tokenizer of a folder, ready for inference, and warnings for the user.

    `attention` is explained at `read_config`.

    Raises:
        ModelError: The folder has no safetensors weights, needs code that is not trusted, or is
            damaged; or its tensors are not those of the model in config.json.
    """
    weight_files(folder)
    check_adapter(folder)
    silence_transformers()
    options = {"trust_remote_code": trust_remote_code, "local_files_only": True}
    tokenizer = load_tokenizer(folder, **options)
    _check_floats(folder)
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
        found = damaged_weights(folder) or error_line(reason)
        raise ModelError(
            f"the model folder must be one that transformers loads, got {found} in {folder}; "
            "download or save it again"
        ) from reason
    module, loading = found
    warnings = loading_warnings(folder, module, check_loading(loading, module, folder))
    _check_overflow(module, folder)
    check_attention(module, attention)
    return prepare(module, device), tokenizer, warnings


def _check_overflow(module: PreTrainedModel, folder: Path) -> None:
    """Raise ModelError for weights that are too large for float16."""
    if module.dtype is not torch.float16:
        return
    for name, parameter in module.named_parameters():
        if parameter.isinf().any():
            raise ModelError(
                f"every weight must be at most {torch.finfo(torch.float16).max:,.0f} in size for "
                f"model.dtype=float16, got a larger one in {name} of {folder}; take "
                "model.dtype=bfloat16 or float32"
            )


def load_tokenizer(folder: Path, **options: Any) -> PreTrainedTokenizerFast:
    """Return the tokenizer of a folder, without truncation and padding.

    Raises:
        ModelError: It cannot be loaded, or is not a fast one.
    """
    weight_files(folder)
    silence_transformers()
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, **options)
    except Exception as reason:  # the library tokenizers raises bare Exceptions
        check_trust(reason, folder)
        raise ModelError(
            "the model folder must have a config and a tokenizer that transformers loads, got "
            f"{_damage(folder) or error_line(reason)} in {folder}; download or save it again"
        ) from reason
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ModelError(
            "the tokenizer must be a fast one (tokenizer.json), because figures by word and byte "
            f"need its offsets, got {type(tokenizer).__name__} in {folder}"
        )
    return without_limits(tokenizer)


def _damage(folder: Path) -> str | None:
    """Return what is missing or damaged in a tokenizer's files; None if it is not known."""
    if not (folder / TOKENIZER_FILE).is_file():
        return f"no {TOKENIZER_FILE}"
    for name in (TOKENIZER_FILE, "added_tokens.json"):
        try:
            content = json_object(folder / name) if (folder / name).is_file() else {}
        except ValueError as reason:
            return str(reason).removeprefix("has ")
        is_tokenizer = name == TOKENIZER_FILE
        if not is_tokenizer and not all(type(number) is int for number in content.values()):
            return f"a {name} whose values are not token ids"
        if is_tokenizer and not isinstance(content.get("model"), dict):
            return f"a {TOKENIZER_FILE} without a model in it"
    for file in folder.glob("*.jinja"):
        try:
            file.read_text(encoding="utf-8")
        except ValueError as reason:
            return f"a damaged {file.name}: {reason}"
    return None


def _check_floats(folder: Path) -> None:
    """Raise ModelError for codes where config.json says nothing of a quantization."""
    codes = [
        f"{key} ({tensor.dtype})"
        for key, tensor in stored_tensors(folder).items()
        if key.endswith(".weight") and tensor.dtype not in FLOAT_TYPES
    ]
    if codes:
        raise ModelError(
            f"float weights must be stored as {', '.join(sorted(FLOAT_TYPES))}, got {len(codes)} "
            f"others in {folder}, such as {codes[0]}; if the checkpoint is quantized, config.json "
            "must have its quantization_config"
        )


def prepare(module: PreTrainedModel, device: torch.device) -> PreTrainedModel:
    """Move a model to a device and put it into inference mode; return it."""
    module.to(device)  # type: ignore[arg-type]
    module.train(mode=False)
    module.requires_grad_(False)
    return module


def silence_transformers() -> None:
    """Turn off progress bars and loading reports of transformers: our errors and warnings say more.

    `TRANSFORMERS_VERBOSITY` brings them back.
    """
    if "TRANSFORMERS_VERBOSITY" not in os.environ:
        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        logging.set_verbosity_error()  # type: ignore[no-untyped-call]


def folder_fingerprint(folder: Path) -> str:
    """Return the SHA-256 over the weights, config, tokenizer and code files of a folder.

    Other files beside them do not count.
    """
    others = (file for pattern in MODEL_FILES[1:] for file in folder.glob(pattern))
    digest = hashlib.sha256()
    for file in sorted((*weight_files(folder), *(file for file in others if not is_foreign(file)))):
        name = file.relative_to(folder).as_posix()
        digest.update(f"{name}:{sha256_file(file)}\n".encode())
    return digest.hexdigest()


def sha256_file(file: Path) -> str:
    """Return the SHA-256 of a file, in hex. A file is read again only if it has changed."""
    found = file.stat()
    if time.time_ns() - found.st_ctime_ns < SETTLED_NS:
        return _digest(file)
    return _settled_sha256(file, found.st_dev, found.st_ino, found.st_size, found.st_ctime_ns)


@lru_cache(maxsize=1024)
def _settled_sha256(file: Path, *_state: int) -> str:
    return _digest(file)


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
