"""The quantization settings of a folder, in `config.json` or in a file of ModelOpt beside it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.errors import ModelError
from harness.models.checkpoints.folder_files import CONFIG, QUANTIZATION_KEYS, json_object
from harness.paths import is_file

Settings = Mapping[str, Any]

MODELOPT_FILE = "hf_quant_config.json"
MODELOPT_KEYS = ("quant_algo", "kv_cache_quant_algo")
"""Keys of `MODELOPT_FILE`. An unquantized model has neither."""


def settings_of(folder: Path) -> Settings | None:
    """Return the quantization settings of a folder; None if its weights are float ones.

    A damaged config.json counts as None: `weight_files` reports it.

    Raises:
        ModelError: The file of ModelOpt is damaged, or config.json has two different settings.
    """
    found = _in_config(folder)
    return found if found is not None else _in_modelopt_file(folder)


def names_a_quantization(folder: Path) -> bool:
    """Return whether the settings are in `config.json`, rather than in a file beside it."""
    return _in_config(folder) is not None


def _in_config(folder: Path) -> Settings | None:
    try:
        config = json_object(folder / CONFIG)
    except ValueError:
        return None
    # Multimodal wrappers may have the settings in the configuration of the text model.
    text = config.get("text_config")
    outer, inner = (
        next((said for key in QUANTIZATION_KEYS if isinstance(said := place.get(key), dict)), None)
        for place in (config, text if isinstance(text, dict) else {})
    )
    if outer is not None and inner is not None and outer != inner:
        raise ModelError(
            "a config.json must have one quantization_config, got another one in text_config of "
            f"{folder}; take out the one that does not describe its files"
        )
    return outer if outer is not None else inner


def _in_modelopt_file(folder: Path) -> Settings | None:
    if not is_file(folder / MODELOPT_FILE):
        return None
    try:
        said = json_object(folder / MODELOPT_FILE).get("quantization")
    except ValueError as reason:
        raise ModelError(
            f"a model folder must be one that its tool wrote, but {folder} {reason}; download it "
            "again, or take the file out if the weights are float ones"
        ) from reason
    if not isinstance(said, dict) or not any(said.get(key) for key in MODELOPT_KEYS):
        return None
    return {"quant_method": "modelopt", **said}
