"""Which files of a folder are the model.

transformers reads the weights from the file that `transformers_weights` in config.json names; else
from `model.safetensors`; else from the files in `model.safetensors.index.json`. Hubs keep other
safetensors files beside these: `consolidated.safetensors`, a LoRA adapter, a head for speculative
decoding. They are no part of the model, of its size, its fingerprint or its tensors.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from harness.errors import ModelError
from harness.paths import is_file

CONFIG = "config.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = f"{WEIGHTS_FILE}.index.json"
ADAPTER = "adapter_config.json"
FOREIGN_WEIGHTS = ("consolidated*.safetensors", "adapter_model*.safetensors")
"""Weights in another layout, and adapters, beside a model. They are not downloaded."""
DISTRIBUTED = re.compile(r"shard-\d{5}-model-\d{5}-of-\d{5}\.safetensors")
"""Files of a distributed checkpoint. transformers prefers them to all others."""
SETTINGS_FILES = ("generation_config.json", "tokenizer_config.json", "special_tokens_map.json")
"""Optional files. transformers ignores a damaged generation_config.json; here it is an error."""
QUANTIZATION_KEYS = ("quantization_config", "compression_config")
"""Keys of config.json with quantization settings; old compressed-tensors checkpoints have the
second."""


def weight_files(folder: Path) -> tuple[Path, ...]:
    """Return the files that hold the weights of a folder, in the order of transformers.

    Raises:
        ModelError: The folder is not a whole model.
    """
    try:
        return _weight_files(folder)
    except ValueError as reason:
        raise ModelError(
            f"a model folder must be one that save_pretrained wrote, but {folder} {reason}; "
            "download or save it again"
        ) from reason


def missing_files(folder: Path) -> str | None:
    """Return what keeps a folder from being a model, such as `has no config.json`; or None."""
    try:
        _weight_files(folder)
    except ValueError as reason:
        return str(reason)
    return None


def is_foreign(file: Path) -> bool:
    """Return whether a file belongs to an adapter, or to weights in another layout."""
    return file.name == ADAPTER or (
        file.name.endswith(".safetensors.index.json") and file.name != INDEX_FILE
    )


def _weight_files(folder: Path) -> tuple[Path, ...]:
    """Return the weights files; a ValueError says what is wrong with the folder."""
    for file in folder.glob("*"):
        # Files that transformers reads beside the weights.
        is_read = file.suffix in (".json", ".jinja", ".model", ".txt", ".py")
        if is_read and not is_file(file):
            raise ValueError(f"has {file.name}, which is a folder, or a link that leads nowhere")
    config = _checked_settings(folder)
    if any(DISTRIBUTED.fullmatch(file.name) for file in folder.glob("*.safetensors")):
        raise ValueError(
            "has files of a distributed checkpoint (shard-*-model-*.safetensors), which must be "
            "merged into one"
        )
    name = config.get("transformers_weights")
    if name is None:
        usual = (WEIGHTS_FILE, INDEX_FILE)
        name = next((each for each in usual if (folder / each).is_file()), None)
    if name is None:
        raise ValueError(
            f"has neither {WEIGHTS_FILE} nor {INDEX_FILE}, which transformers reads (pickled "
            "weights are never loaded)"
        )
    first = _inside(folder, name, CONFIG)
    names = _shards(first) if first.name.endswith(".index.json") else [name]
    files = tuple(_inside(folder, each, first.name) for each in names)
    if absent := [str(file.relative_to(folder)) for file in files if not file.is_file()]:
        raise ValueError(f"lacks {', '.join(absent)}, which {first.name} names")
    return files


def _checked_settings(folder: Path) -> Mapping[str, Any]:
    """Return config.json; a ValueError says what is wrong in it or in another file of settings."""
    if not (folder / CONFIG).is_file():
        raise ValueError(
            f"has only a LoRA adapter ({ADAPTER}), without the model that it changes; merge the "
            "two with peft's merge_and_unload"
            if (folder / ADAPTER).is_file()
            else f"has no {CONFIG}"
        )
    config = json_object(folder / CONFIG)
    text = config.get("text_config")
    for place in (config, text if isinstance(text, dict) else {}):
        for key in QUANTIZATION_KEYS:
            if place.get(key) is not None and not _names_a_method(place[key]):
                raise ValueError(
                    f"has a {CONFIG} whose {key} must be an object with a quant_method, got "
                    f"{place[key]!r} (take it out if the weights are float ones)"
                )
    for name in (CONFIG, *SETTINGS_FILES):
        if (folder / name).is_file():
            _check_ends(json_object(folder / name), name)
    return config


def _check_ends(settings: Mapping[str, Any], name: str) -> None:
    """Raise ValueError for end tokens that are no token ids: generated text would never end."""
    ends = settings.get("eos_token_id")
    for end in ends if isinstance(ends, list) else [ends]:
        if not isinstance(end, int | None) or isinstance(end, bool):
            raise ValueError(f"has a {name} whose eos_token_id must be token ids, got {ends!r}")


def _names_a_method(settings: object) -> bool:
    """Return whether quantization settings name a method; old bitsandbytes ones have a flag."""
    flags = ("quant_method", "load_in_8bit", "load_in_4bit")
    return isinstance(settings, dict) and any(settings.get(flag) for flag in flags)


def _shards(index: Path) -> list[str]:
    """Return the files that an index names."""
    content = json_object(index)
    places = content.get("weight_map")
    if not isinstance(places, dict) or not places:
        raise ValueError(
            f"has a damaged {index.name}: its weight_map must name a file for each tensor"
        )
    if not isinstance(content.get("metadata"), dict):
        raise ValueError(
            f"has a damaged {index.name}: transformers demands an object metadata in it"
        )
    return sorted(set(map(str, places.values())))


def _inside(folder: Path, name: object, origin: str) -> Path:
    """Return the path of a weights file or index, whose name must lie in the folder.

    Links are followed: in a snapshot of the hub, files are links to blobs elsewhere.
    """
    path = PurePosixPath(str(name))
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"names {name!r} in {origin}, which lies outside of the folder")
    if not path.name.endswith((".safetensors", ".safetensors.index.json")):
        raise ValueError(
            f"names {name!r} in {origin}, which is no *.safetensors file (pickled weights are "
            "never loaded)"
        )
    return folder / path


def json_object(file: Path) -> dict[str, Any]:
    """Return the object in a JSON file; a ValueError says what is wrong with the file."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except RecursionError as reason:
        raise ValueError(f"has a damaged {file.name}: it is nested too deeply") from reason
    except (OSError, ValueError) as reason:
        raise ValueError(f"has a damaged {file.name}: {reason}") from reason
    if not isinstance(content, dict):
        raise ValueError(
            f"has a {file.name} that must hold an object, got a {type(content).__name__}"
        )
    return content
