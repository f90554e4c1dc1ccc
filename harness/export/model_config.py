"""Write config.json with the keys of transformers 5 and those of transformers 4 beside them.

transformers 5 keeps everything about rotary positions in one entry. transformers 4 ignores the
entry and silently takes its own default:

    "rope_parameters": {"rope_type": "default", "rope_theta": 100000.0}
    in transformers 4: rope_theta = 10000.0

So the old keys are written too. transformers 5 prefers the old `rope_scaling` to `rope_parameters`,
so the two must agree: `write_config` reads the file back and compares.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from harness.errors import UnsupportedRecipe

OLD_TYPES = {"linear", "dynamic", "yarn", "longrope", "llama3"}
"""Types of scaled rotary positions that transformers 4 has."""
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
"""Names in transformers 4 that are not `rope_theta` and `partial_rotary_factor`, by model type."""
LOCAL_THETA: Mapping[str, str | None] = MappingProxyType(
    {
        "gemma3_text": "rope_local_base_freq",
        "gemma3n_text": "rope_local_base_freq",
        "modernbert-decoder": "local_rope_theta",
        "olmo3": None,
    }
)
"""Model types with two kinds of layers in transformers 4 too, and the name of the local base; None:
one base."""
THREE_FIELDS = {"phi3", "phi4_multimodal"}
"""Model types whose `rope_scaling` in transformers 4 has only `type`, `short_factor` and
`long_factor`."""


def write_config(file: Path, model: PreTrainedConfig, changes: Mapping[str, Any]) -> None:
    """Write config.json with the old keys beside the new ones.

    Args:
        file: Where to write it.
        model: The configuration of the model.
        changes: Entries that replace or extend those of `model`, such as `quantization_config`.

    Raises:
        UnsupportedRecipe: transformers reads other rotary positions back.
    """
    model.save_pretrained(file.parent)
    saved = json.loads(file.read_text(encoding="utf-8"), object_hook=_infinity)
    text = json.dumps(with_old_keys(saved | changes), indent=2, sort_keys=True)
    file.write_text(text + "\n", encoding="utf-8")
    _check_rope(file, model)


def with_old_keys(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration, and those inside it, with the keys of transformers 4 added.

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
        return whole if _has_layer_types(rope) else whole | _flat(rope, kind)
    if kind not in LOCAL_THETA:
        return whole  # transformers 4 does not have this kind of model
    whole |= _flat(rope["full_attention"], kind)
    if name := LOCAL_THETA[kind]:
        whole[name] = rope["sliding_attention"]["rope_theta"]
    return whole


def _has_layer_types(rope: Mapping[str, Any]) -> bool:
    """Return whether each type of layer has an entry; transformers 4 has no such names."""
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


def _infinity(entry: dict[str, Any]) -> Any:
    """Return infinity as the number that transformers 4 wrote; 5 writes an object."""
    return float(entry["__float__"]) if entry.keys() == {"__float__"} else entry


def _check_rope(file: Path, model: PreTrainedConfig) -> None:
    """Raise UnsupportedRecipe unless transformers reads the model's rotary positions back."""
    if not model.model_type:
        return
    # The code lies beside the file if the model was loaded with it.
    trust = any(file.parent.glob("*.py"))
    read = AutoConfig.from_pretrained(file.parent, local_files_only=True, trust_remote_code=trust)
    for ours, theirs in ((model, read), (model.get_text_config(), read.get_text_config())):
        wanted, got = (getattr(config, "rope_parameters", None) for config in (ours, theirs))
        if _without_old_type(wanted) != _without_old_type(got):
            raise UnsupportedRecipe(
                f"config.json must say rope_parameters = {wanted} to transformers, but it reads "
                f"{got}; this kind of model ({model.model_type}) cannot be exported yet"
            )


def _without_old_type(rope: Any) -> Any:
    """Return rotary parameters without `type`, the old second name of `rope_type`."""
    if not isinstance(rope, dict):
        return rope
    return {key: _without_old_type(value) for key, value in rope.items() if key != "type"}
