"""Keep one model in memory, so that a sweep loads it once, and its baseline.

The key is the whole frozen source with the device, so no field can be forgotten. Loading another
model drops the one before. A model is handed out with its unquantized weights in place. A baseline
is loaded when a comparison asks for it. It stays as long as the models that were made of it.
"""

import torch

from harness.models.checkpoints.loading_warnings import zero_warnings
from harness.models.loaded import LoadedModel, ModelSource

_held: dict[tuple[ModelSource, torch.device], LoadedModel] = {}


def load(source: ModelSource, device: torch.device) -> LoadedModel:
    """Return the model of `source` on `device`, from memory if it is there."""
    # Only some sources have a field for a baseline.
    _drop_all_but({(source, device), (getattr(source, "baseline", None), device)})
    return _get(source, device)


def load_baseline(loaded: LoadedModel) -> LoadedModel | None:
    """Return the unquantized model that a checkpoint was made of; None if its source names none."""
    return _get(loaded.baseline, loaded.device) if loaded.baseline is not None else None


def _get(source: ModelSource, device: torch.device) -> LoadedModel:
    key = (source, device)
    if key not in _held:
        loaded = _held[key] = source.load(device)
        loaded.warnings += zero_warnings(loaded.module)
    loaded = _held[key]
    loaded.restore()
    return loaded


def _drop_all_but(kept: set[tuple[ModelSource | None, torch.device]]) -> None:
    for key in [key for key in _held if key not in kept]:
        del _held[key]
