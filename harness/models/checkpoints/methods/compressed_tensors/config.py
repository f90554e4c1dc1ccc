"""Find the scheme of each layer of a compressed-tensors checkpoint.

`config_groups` in the settings give schemes to layers by path, by regular expression (`re:...`) or
by class (`Linear`). `ignore` excludes layers from all groups.
"""

import re
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from harness.errors import ModelError
from harness.models.checkpoints.loading_report import error_line
from harness.models.checkpoints.settings import Settings

BY_ACTIVATIONS = ("group", "dynamic", True)
"""Values of `actorder` that mean: inputs were grouped by their activations; see `weight_g_idx`."""


def library_config(folder: Path, settings: Settings) -> Any:
    """Return the settings as the library's `QuantizationConfig`, checked.

    Raises:
        ModelError: The library rejects the settings, or they ask for something that is not done
            here.
    """
    _check_transforms(folder, settings.get("transform_config") or {})
    groups, stored = {}, settings.get("config_groups") or {}
    if not isinstance(stored, Mapping):
        raise ModelError(
            f"config_groups must be an object of groups, got a {type(stored).__name__} in "
            f"{folder}; download it again"
        )
    for name, group in stored.items():
        groups[name] = group
        if isinstance(group, Mapping) and isinstance(group.get("weights"), Mapping):
            # The library no longer knows actorder. `check_order` looks at the files instead.
            weights = {key: value for key, value in group["weights"].items() if key != "actorder"}
            groups[name] = {**group, "weights": weights}
    library = import_module("compressed_tensors.quantization")
    try:
        config = library.QuantizationConfig.model_validate({**settings, "config_groups": groups})
    except (ValueError, TypeError, NotImplementedError) as reason:
        raise ModelError(
            "quantization_config must be one that compressed-tensors reads, got "
            f"{error_line(reason)} in {folder}; download it again"
        ) from reason
    _check_expressions(folder, config)
    if alone := [name for name, group in config.config_groups.items() if group.weights is None]:
        raise ModelError(
            f"a config group must quantize weights, got {', '.join(alone)} for activations alone "
            f"in {folder}; choose another checkpoint"
        )
    return config


def scheme_of(config: Any, path: str, module: nn.Module) -> Any:
    """Return the scheme of a layer, or None.

    An exact name wins over an expression, an expression over a class.
    """
    match = import_module("compressed_tensors.utils.match")
    if match.is_match(path, module, config.ignore or ()):
        return None
    schemes = {target: group for group in config.config_groups.values() for target in group.targets}
    found = match.match_targets(path, module, schemes)
    return schemes[found[0]] if found else None


def check_order(
    folder: Path, settings: Settings, layers: Mapping[str, Mapping[str, Tensor]]
) -> None:
    """Raise ModelError for a `weight_g_idx` that reorders inputs, unless config.json says so."""
    groups = (settings.get("config_groups") or {}).values()
    if any(_weight_settings(group).get("actorder") in BY_ACTIVATIONS for group in groups):
        return
    for path, parts in layers.items():
        group = parts.get("weight_g_idx")
        if group is not None and bool((group.diff() < 0).any()):
            raise ModelError(
                f"layer {path} must have its groups in order unless config.json says actorder: "
                f"group, got a weight_g_idx that reorders them in {folder}; download or convert it "
                "again"
            )


def _weight_settings(group: Any) -> Mapping[str, Any]:
    """Return the weight settings of a group; empty where they are damaged: the library says so."""
    found = group.get("weights") if isinstance(group, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _check_expressions(folder: Path, config: Any) -> None:
    """Raise ModelError for text after `re:` that is no regular expression."""
    targets = [target for group in config.config_groups.values() for target in group.targets]
    for name in (*targets, *(config.ignore or ())):
        try:
            re.compile(name.removeprefix("re:") if name.startswith("re:") else "")
        except re.error as reason:
            raise ModelError(
                "targets and ignore of config.json must hold regular expressions after re:, got "
                f"{name!r} ({reason}) in {folder}; download it again"
            ) from reason


def _check_transforms(folder: Path, transforms: Settings) -> None:
    """Raise ModelError for rotations that a model must apply to activations as it runs.

    Rotations of weights are part of the stored weights already.
    """
    online = sorted(
        {
            str(argument.get("location"))
            for scheme in (transforms.get("config_groups") or {}).values()
            for argument in scheme.get("apply") or ()
            if not str(argument.get("location")).startswith("weight_")
        }
    )
    if online:
        raise ModelError(
            "a checkpoint must compute what its architecture does, got one that rotates "
            f"activations as it runs (QuIP or SpinQuant, transform_config at {', '.join(online)}) "
            f"in {folder}; such rotations are not applied here, choose another checkpoint"
        )
