"""One model stays in memory, so that a sweep loads it once, and beside it the float model that it is compared with.

The key is the whole frozen source and the device: no field can be forgotten. Another model replaces the one that is
held, and a model is handed out only with its float weights in place. A baseline is loaded when a comparison asks for it, and kept
while runs are of models that were made of it.
"""

import torch

from harness.models.checkpoints.zero_weights import zero_warnings
from harness.models.loaded import LoadedModel, ModelSource

_held: dict[tuple[ModelSource, torch.device], LoadedModel] = {}


def load(source: ModelSource, device: torch.device) -> LoadedModel:
    """Return the model of `source` on `device`, from memory if it is held."""
    # Not every source can have a baseline.
    _drop_all_but({(source, device), (getattr(source, "baseline", None), device)})
    return _get(source, device)


def load_baseline(loaded: LoadedModel) -> LoadedModel | None:
    """Return the float model that a loaded model was made of, on the same device; None if nothing says which."""
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
