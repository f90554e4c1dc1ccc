"""Check on loading that files and model have the same tensors.

transformers drops tensors that the model has no place for, and draws random values for weights that
the files lack or have in another shape. Here, all three are errors. A class may ignore tensors by
design: these are a warning (`loading_warnings`).
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import nn
from transformers import PreTrainedModel
from transformers.utils.import_utils import is_peft_available

from harness.errors import ModelError
from harness.messages import in_one_line
from harness.models.checkpoints.folder_files import ADAPTER, CONFIG, weight_files
from harness.models.checkpoints.stored_tensors import StoredTensor, stored_tensors

RECOMPUTED = (r"rotary_emb\.inv_freq", r"(^|\.)position_ids$")
"""Buffers that old checkpoints store. transformers computes them, and ignores stored ones in every
class."""
MASKS = re.compile(r"attn(\.attention)?\.(bias|masked_bias|causal_mask)$")
"""Causal masks, and scores of masked positions, in old checkpoints of GPT-Neo, GPT-J and
CodeGen."""


def check_loading(loading: Mapping[str, Any], module: PreTrainedModel, folder: Path) -> list[str]:
    """Check that files and model have the same tensors; return the stored tensors of other parts.

    Args:
        loading: From `from_pretrained(..., output_loading_info=True,
            ignore_mismatched_sizes=True)`.
        module: The loaded model.
        folder: The folder it was loaded from.

    Returns:
        Tensors of parts beside the text model, such as a vision tower, that were not loaded.

    Raises:
        ModelError: A weight is not stored, is stored twice or in another shape, or a stored tensor
            has no place in the model.
    """
    check_once(folder, module)
    check_complete(loading, folder)
    check_shapes(loading, folder)
    ignored = ignored_tensors(stored_tensors(folder), module)
    ignored_names = {name for key in ignored for name in _possible_names(key, module)}
    keys = loading["unexpected_keys"] - ignored_names
    parts = sorted(key for key in keys if _is_of_another_part(key, module, folder))
    check_taken({"unexpected_keys": keys - set(parts)}, module, folder)
    return parts


def check_complete(loading: Mapping[str, Any], source: Path) -> None:
    """Raise ModelError if the files lack weights of the model."""
    if missing := sorted(loading["missing_keys"]):
        # Other names help: PEFT and torch.compile put a prefix before every name.
        others = sorted(loading.get("unexpected_keys", ()))
        beside = f" (and has {len(others)} of other names, such as {others[0]})" if others else ""
        raise ModelError(
            f"every weight of the model must be in its files, but {source} lacks {len(missing)}: "
            f"{first_names(missing)}{beside}; download or convert it again"
        )


def check_shapes(loading: Mapping[str, Any], source: Path) -> None:
    """Raise ModelError if stored tensors have other shapes than the weights of the model."""
    found = sorted(
        f"{name} {list(stored)} instead of {list(expected)}"
        for name, stored, expected in loading["mismatched_keys"]
    )
    if found:
        raise ModelError(
            f"every stored tensor must have the shape that the config gives it, but {source} has "
            f"{len(found)} others: {first_names(found)}; download it again, or correct the config"
        )


def check_taken(loading: Mapping[str, Any], module: PreTrainedModel, source: Path) -> None:
    """Raise ModelError for stored tensors without a place that the class does not ignore."""
    if unknown := sorted(loading["unexpected_keys"]):
        raise ModelError(
            f"every stored tensor must have a place in the model, but {source} has {len(unknown)} "
            f"that a {type(module).__name__} of its config does not take: {first_names(unknown)}; "
            "correct the config, or take them out"
        )


def check_all_used(keys: Iterable[str], folder: Path) -> None:
    """Raise ModelError for tensors of a quantized checkpoint that the model has no place for.

    A scale that is not used makes every weight of a layer wrong.
    """
    if unknown := sorted(keys):
        raise ModelError(
            f"every tensor of a quantized checkpoint must be of use, but {folder} has "
            f"{len(unknown)} that transformers leaves out: {first_names(unknown)}; its config.json "
            "says something else than its files"
        )


def check_once(folder: Path, module: PreTrainedModel) -> None:
    """Raise ModelError if files hold a weight twice, with the prefix of the body or without it.

    transformers takes one of the two without a word.
    """
    prefix = f"{module.base_model_prefix}."
    counts: Counter[str] = Counter()
    for file in weight_files(folder):
        with safe_open(file, "pt") as opened:
            counts.update(name.removeprefix(prefix) for name in opened.keys())  # noqa: SIM118 - no mapping
    if twice := sorted(name for name, count in counts.items() if count > 1):
        raise ModelError(
            f"every weight must be stored once, but {folder} has two tensors for {len(twice)}: "
            f"{first_names(twice)}; download it again"
        )


def _is_of_another_part(key: str, module: PreTrainedModel, folder: Path) -> bool:
    """Return whether a tensor belongs to a part beside the text model that was not loaded."""
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    if "text_config" not in config or hasattr(module.config, "text_config"):
        return False
    part = key.removeprefix(f"{module.base_model_prefix}.").partition(".")[0]
    return not hasattr(module, part) and not hasattr(module.base_model, part)


def ignored_tensors(stored: Mapping[str, StoredTensor], module: PreTrainedModel) -> list[str]:
    """Return the stored tensors that a class ignores by design, or computes itself."""
    recomputed = "|".join(RECOMPUTED)
    held = module.state_dict().keys()
    computed = {name for name, _ in module.named_buffers()} - held
    return sorted(
        name
        for name, tensor in stored.items()
        if not held & _possible_names(name, module)
        and (
            re.search(recomputed, name)
            or is_ignored_by_class(name, module)
            or computed & _possible_names(name, module)
            or _is_mask(name, tensor)
        )
    )


def is_ignored_by_class(name: str, module: PreTrainedModel) -> bool:
    """Return whether a class ignores a stored tensor that its models have no place for.

    The class has expressions such as `layers.46`, for the head for speculative decoding of one
    size. In another size this may be a layer of the model: its codes and scales are not ignored.
    """
    patterns = module._keys_to_ignore_on_load_unexpected or ()  # noqa: SLF001 - no public name for it
    if not any(re.search(pattern, name) for pattern in patterns):
        return False
    place: nn.Module = module
    owners = name.split(".")[:-1]
    for depth, part in enumerate(owners):
        if not isinstance(child := getattr(place, part, None), nn.Module):
            # Inside a decoder layer, the files may have other names than the model, so a name that
            # is not found proves nothing. Whole layers have equal names: one that is not found is
            # not there.
            return depth == 0 or isinstance(place, nn.ModuleList | PreTrainedModel)
        place = child
    return not hasattr(place, "weight")


def _possible_names(name: str, module: PreTrainedModel) -> set[str]:
    """Return the names that a stored tensor may have in a model: the body's prefix may differ."""
    prefix = f"{module.base_model_prefix}."
    return {name, prefix + name, name.removeprefix(prefix)}


def _is_mask(name: str, tensor: StoredTensor) -> bool:
    return bool(MASKS.search(name)) and (tensor.dtype in ("BOOL", "U8") or tensor.numel == 1)


def check_adapter(folder: Path) -> None:
    """Raise ModelError for an adapter that transformers would apply, because peft is installed."""
    if (folder / ADAPTER).is_file() and is_peft_available():
        raise ModelError(
            "a model folder must hold no adapter while peft is installed, because transformers "
            f"then applies it, got {ADAPTER} in {folder}; move the adapter elsewhere, or merge it "
            "into the weights"
        )


def check_trust(reason: BaseException, folder: Path) -> None:
    """Raise ModelError if transformers says that the code of a folder is not trusted."""
    if "trust_remote_code" in str(reason):
        raise ModelError(
            "code in a model folder must be trusted before it runs, got no trust for "
            f"{folder}; read its *.py files, then add model.trust_remote_code=true"
        ) from reason


def first_names(names: Sequence[str]) -> str:
    """Return the first five names, for a message."""
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def error_line(reason: BaseException) -> str:
    """Return kind and text of a library's error, in one line."""
    return in_one_line(f"{type(reason).__name__}: {reason}")
