"""Errors and warnings on loading: the files and the model must have the same tensors.

transformers drops tensors that the model has no place for, and draws random ones where the files have none or one of another shape.
Here each of the three is an error. A class may ignore tensors by design, such as a head for speculative decoding, or the position
frequencies that old checkpoints store: these are a warning. An adapter in the folder is a warning too.
"""

import json
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import nn
from transformers import PreTrainedModel
from transformers.utils.import_utils import is_peft_available

from harness.errors import ModelError
from harness.models.checkpoints.folder_files import ADAPTER, CONFIG, weight_files
from harness.models.checkpoints.prequantized import Stored, stored_tensors

RECOMPUTED = (r"rotary_emb\.inv_freq", r"(^|\.)position_ids$")
"""Buffers that old checkpoints store and transformers computes; it ignores them for every class."""
MASKS = re.compile(r"attn(\.attention)?\.(bias|masked_bias|causal_mask)$")
"""Causal masks, and the score of a masked position, which old checkpoints of GPT-Neo, GPT-J and CodeGen store."""


def check_loading(loading: Mapping[str, Any], module: PreTrainedModel, folder: Path) -> list[str]:
    """Check that files and model have the same tensors; return stored tensors of other parts, such as a vision tower.

    Args:
        loading: What `from_pretrained(..., output_loading_info=True, ignore_mismatched_sizes=True)` says.
        module: What it loaded.
        folder: Where from.

    Raises:
        ModelError: Some weight is not stored, is stored twice or in another shape, or some stored tensor has no place.
    """
    check_once(folder, module)
    check_complete(loading, folder)
    check_shapes(loading, folder)
    ignored = ignored_tensors(stored_tensors(folder), module)
    keys = loading["unexpected_keys"] - {name for key in ignored for name in _names(key, module)}
    parts = sorted(key for key in keys if _is_of_another_part(key, module, folder))
    check_taken({"unexpected_keys": keys - set(parts)}, module, folder)
    return parts


def check_complete(loading: Mapping[str, Any], source: Path) -> None:
    """Raise ModelError if transformers found no values for some weights of a model."""
    if missing := sorted(loading["missing_keys"]):
        # PEFT and torch.compile put a prefix before every name.
        others = sorted(loading.get("unexpected_keys", ()))
        beside = f" (and has {len(others)} of other names, such as {others[0]})" if others else ""
        raise ModelError(
            f"every weight of the model must be in its files, but {source} lacks {len(missing)}: {shown(missing)}{beside}; "
            "download or convert it again"
        )


def check_shapes(loading: Mapping[str, Any], source: Path) -> None:
    """Raise ModelError if stored tensors have other shapes than the model's weights."""
    found = sorted(
        f"{name} {list(stored)} instead of {list(expected)}"
        for name, stored, expected in loading["mismatched_keys"]
    )
    if found:
        raise ModelError(
            f"every stored tensor must have the shape that the config gives it, but {source} has {len(found)} others: "
            f"{shown(found)}; download it again, or correct the config"
        )


def check_taken(loading: Mapping[str, Any], module: PreTrainedModel, source: Path) -> None:
    """Raise ModelError if the model has no place for some stored tensors, and its class does not ignore them."""
    if unknown := sorted(loading["unexpected_keys"]):
        raise ModelError(
            f"every stored tensor must have a place in the model, but {source} has {len(unknown)} that a "
            f"{type(module).__name__} of its config does not take: {shown(unknown)}; correct the config, or take them out"
        )


def check_once(folder: Path, module: PreTrainedModel) -> None:
    """Raise ModelError if files hold two tensors for one weight: under its name twice, or with and without the prefix of its body.

    transformers takes one of them without a word.
    """
    prefix = f"{module.base_model_prefix}."
    counts: Counter[str] = Counter()
    for file in weight_files(folder):
        with safe_open(file, "pt") as opened:
            counts.update(name.removeprefix(prefix) for name in opened.keys())  # noqa: SIM118 - it is no mapping
    if twice := sorted(name for name, count in counts.items() if count > 1):
        raise ModelError(
            f"every weight must be stored once, but {folder} has two tensors for {len(twice)}: {shown(twice)}; download it again"
        )


def _is_of_another_part(key: str, module: PreTrainedModel, folder: Path) -> bool:
    """Say whether a tensor without a place belongs to a part beside the text model, which alone was loaded."""
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    if "text_config" not in config or hasattr(module.config, "text_config"):
        return False
    part = key.removeprefix(f"{module.base_model_prefix}.").partition(".")[0]
    return not hasattr(module, part) and not hasattr(module.base_model, part)


def warnings_of(folder: Path, module: PreTrainedModel, parts: Collection[str] = ()) -> list[str]:
    """Return what a user must know of a loaded folder.

    Args:
        folder: Where the model comes from.
        module: The loaded model; a config that ties two weights which the files hold apart is corrected.
        parts: Stored tensors that `check_loading` returned.
    """
    ignored = ignored_tensors(stored_tensors(folder), module)
    found = [
        f"{len(names)} stored tensors are not used: {shown(names)}; {reason}"
        for names, reason in (
            (ignored, f"{type(module).__name__} ignores them by design"),
            (sorted(parts), "they belong to other parts than the text model"),
        )
        if names
    ]
    if (folder / ADAPTER).is_file():
        found.append(
            f"the adapter beside the weights ({ADAPTER}) is not applied: what is measured is the model without it"
        )
    return found + [
        f"{CONFIG} ties {target} to {source}, but the files hold two different tensors; both are used as they are stored"
        for target, source in _untie(module).items()
    ]


def ignored_tensors(stored: Mapping[str, Stored], module: PreTrainedModel) -> list[str]:
    """Return the stored tensors that a model leaves out by design: its class names them, or it computes them."""
    recomputed = "|".join(RECOMPUTED)
    held = module.state_dict().keys()
    computed = {name for name, _ in module.named_buffers()} - held
    return sorted(
        name
        for name, tensor in stored.items()
        if not held & _names(name, module)
        and (
            re.search(recomputed, name)
            or is_ignored_by_class(name, module)
            or computed & _names(name, module)
            or _is_mask(name, tensor)
        )
    )


def is_ignored_by_class(name: str, module: PreTrainedModel) -> bool:
    """Say whether a class names a stored tensor that its models have no place for, such as a head for speculative decoding.

    The expression for one size (`layers.46`) may match a layer of another: codes and scales of layers that the model has are not ignored.
    """
    patterns = module._keys_to_ignore_on_load_unexpected or ()  # noqa: SLF001 - no public name for it
    if not any(re.search(pattern, name) for pattern in patterns):
        return False
    place: nn.Module = module
    owners = name.split(".")[:-1]
    for depth, part in enumerate(owners):
        if not isinstance(child := getattr(place, part, None), nn.Module):
            # Inside a decoder layer, names in files may differ from those in the model, so a name that is not found proves nothing. The
            # names of whole layers do not differ: a layer that is missing here is missing in the model.
            return depth == 0 or isinstance(place, nn.ModuleList | PreTrainedModel)
        place = child
    return not hasattr(place, "weight")


def _names(name: str, module: PreTrainedModel) -> set[str]:
    """Return the names that a stored tensor may have in a model: with the prefix of the body, or without it."""
    prefix = f"{module.base_model_prefix}."
    return {name, prefix + name, name.removeprefix(prefix)}


def _is_mask(name: str, tensor: Stored) -> bool:
    return bool(MASKS.search(name)) and (tensor.dtype in ("BOOL", "U8") or tensor.numel == 1)


def _untie(module: PreTrainedModel) -> dict[str, str]:
    """Return weights that the config ties but the files hold apart; untie them in the config, or transformers would tie them later."""
    tied = module.get_expanded_tied_weights_keys(all_submodels=True)
    weights = dict(module.named_parameters(remove_duplicate=False))
    apart = {
        target: source
        for target, source in tied.items()
        if {target, source} <= weights.keys() and weights[target] is not weights[source]
    }
    if apart:
        module.config.tie_word_embeddings = False
    return apart


def refuse_adapter(folder: Path) -> None:
    """Raise ModelError if transformers would load another model: with peft it takes the one that an adapter names."""
    if (folder / ADAPTER).is_file() and is_peft_available():
        raise ModelError(
            f"a model folder must hold no adapter while peft is installed, because transformers then applies it, got {ADAPTER} "
            f"in {folder}; move the adapter elsewhere, or merge it into the weights"
        )


def refuse_untrusted(reason: BaseException, folder: Path) -> None:
    """Raise ModelError if what transformers raised says that the code of a folder is not trusted."""
    if "trust_remote_code" in str(reason):
        raise ModelError(
            f"code that a model folder brings along must be trusted to run, got none for {folder}; read its *.py files, then add "
            "model.trust_remote_code=true"
        ) from reason


def shown(names: Sequence[str]) -> str:
    """Return the first five names, for a message."""
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def in_a_line(reason: BaseException) -> str:
    """Return what a library says of an error, with its kind, in one line."""
    return f"{type(reason).__name__}: {' '.join(str(reason).split())}"[:500]
