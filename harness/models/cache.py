"""One model stays in memory, so that a sweep loads it once.

The key is the whole frozen source and the device: no field can be forgotten. Another model replaces the one that is
held, and a model is handed out only with its float weights in place.
"""

import torch

from harness.models.source import LoadedModel, ModelSource

_held: dict[tuple[ModelSource, torch.device], LoadedModel] = {}


def load(source: ModelSource, device: torch.device) -> LoadedModel:
    """Return the model of `source` on `device`, from memory if it is the one held."""
    key = (source, device)
    if key not in _held:
        _held.clear()
        _held[key] = source.load(device)
    loaded = _held[key]
    loaded.restore()
    return loaded
