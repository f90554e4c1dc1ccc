"""Write config.json with the keys of transformers 5 and of transformers 4, so that both read the same model.

transformers 5 keeps everything about rotary positions in one entry. transformers 4 does not know the entry and silently takes its own
default:

    "rope_parameters": {"rope_type": "default", "rope_theta": 100000.0}       transformers 4: rope_theta = 10000.0

So the old keys are written beside it. transformers 5 reads the old `rope_scaling` before `rope_parameters`, so the two must
say the same; `write` reads the file back and compares.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from harness.errors import UnsupportedRecipe

OLD_TYPES = {"linear", "dynamic", "yarn", "longrope", "llama3"}
"""Kinds of scaled rotary positions that transformers 4 has."""
OLD_NAMES: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "gpt_neox": {"rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"},
        "gpt_neox_japanese": {
            "rope_theta": "rotary_emb_base",
            "partial_rotary_factor": "rotary_pct",
        },
        "modernbert-decoder": {"rope_theta": "global_rope_theta"},
    }
)
"""Where transformers 4 has other names than `rope_theta` and `partial_rotary_factor`, by model type."""
LOCAL_THETA: Mapping[str, str | None] = MappingProxyType(
    {
        "gemma3_text": "rope_local_base_freq",
        "gemma3n_text": "rope_local_base_freq",
        "modernbert-decoder": "local_rope_theta",
        "olmo3": None,
    }
)
"""Model types whose layers have two kinds of positions in transformers 4 too, and the name of the local base (None: the same)."""
THREE_FIELDS = {"phi3", "phi4_multimodal"}
"""Model types for which transformers 4 takes no `rope_scaling` but `type`, `short_factor` and `long_factor`."""


def write(file: Path, model: PreTrainedConfig, changes: Mapping[str, Any]) -> None:
    """Write `config.json` with the old keys beside the new ones.

    Args:
        file: Where to.
        model: The configuration of the model.
        changes: Entries of the file that are not those of `model`, such as `quantization_config`.

    Raises:
        UnsupportedRecipe: transformers would not read the same rotary positions back.
    """
    model.save_pretrained(file.parent)
    saved = json.loads(file.read_text(encoding="utf-8"), object_hook=_number)
    text = json.dumps(with_old_keys(saved | changes), indent=2, sort_keys=True)
    file.write_text(text + "\n", encoding="utf-8")
    _check(file, model)


def with_old_keys(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration, and those inside it, with the keys of transformers 4 beside those of 5.

    Example:
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e5}, "dtype": "bfloat16"}
        becomes the same with "rope_theta": 1e5 and "torch_dtype": "bfloat16"
    """
    whole = {
        key: with_old_keys(value) if key.endswith("_config") and isinstance(value, dict) else value
        for key, value in config.items()
    }
    if "dtype" in whole:
        whole["torch_dtype"] = whole["dtype"]
    rope, kind = whole.get("rope_parameters"), str(whole.get("model_type"))
    if not isinstance(rope, dict) or not rope:
        return whole
    if "full_attention" not in rope:
        return whole if _by_layer(rope) else whole | _flat(rope, kind)
    if kind not in LOCAL_THETA:
        return whole  # a kind of model that transformers 4 does not have
    whole |= _flat(rope["full_attention"], kind)
    if name := LOCAL_THETA[kind]:
        whole[name] = rope["sliding_attention"]["rope_theta"]
    return whole


def _by_layer(rope: Mapping[str, Any]) -> bool:
    """Say whether each type of layer has an entry of its own, under names that transformers 4 does not have."""
    return any(isinstance(value, dict) for value in rope.values())


def _flat(rope: Mapping[str, Any], model_type: str) -> dict[str, Any]:
    """Return the old keys for one set of rotary parameters."""
    names = OLD_NAMES.get(model_type, {})
    old = {
        names.get(key, key): rope[key]
        for key in ("rope_theta", "partial_rotary_factor")
        if rope.get(key) is not None
    }
    kind = rope.get("rope_type", "default")
    own = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
    rest = {key: value for key, value in rope.items() if key not in own}
    if kind not in OLD_TYPES and not (kind == "default" and rest):
        return old
    scaling = {"type": kind, "rope_type": kind, **rest}
    if model_type in THREE_FIELDS and kind == "longrope":
        scaling = {key: scaling[key] for key in ("type", "short_factor", "long_factor")}
    return old | {"rope_scaling": scaling}


def _number(entry: dict[str, Any]) -> Any:
    """Return infinity as the number that transformers 4 wrote; 5 writes it as `{"__float__": "Infinity"}`."""
    return float(entry["__float__"]) if entry.keys() == {"__float__"} else entry


def _check(file: Path, model: PreTrainedConfig) -> None:
    """Raise UnsupportedRecipe unless the file has the rotary positions of the model, for transformers of today."""
    if not model.model_type:
        return
    # Code stands beside it where the model was loaded with that code.
    trust = any(file.parent.glob("*.py"))
    read = AutoConfig.from_pretrained(file.parent, local_files_only=True, trust_remote_code=trust)
    for ours, theirs in ((model, read), (model.get_text_config(), read.get_text_config())):
        wanted, got = (getattr(config, "rope_parameters", None) for config in (ours, theirs))
        if _plain(wanted) != _plain(got):
            raise UnsupportedRecipe(
                f"config.json must say rope_parameters = {wanted} to transformers, but it reads {got}; this kind of "
                f"model ({model.model_type}) cannot be exported yet"
            )


def _plain(rope: Any) -> Any:
    """Return rotary parameters without the second name of their type, which the old form has."""
    if not isinstance(rope, dict):
        return rope
    return {key: _plain(value) for key, value in rope.items() if key != "type"}
