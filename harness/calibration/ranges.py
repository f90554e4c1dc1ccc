"""Static scales for the inputs of layers: the ranges that a float model shows on calibration text.

A static scale saves the search for the largest value at each call. What exceeds the range seen saturates.
"""

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from harness.calibration.calibration_set import CalibrationSet
from harness.errors import ConfigError
from harness.models.activations.expert_activations import change_inputs
from harness.models.loaded import LoadedModel
from harness.models.targets.targets import Target
from harness.quant.range import Range, StaticFormat
from harness.quant.tensor import Scales


def static_scales(
    loaded: LoadedModel,
    layers: Mapping[str, tuple[Target, StaticFormat]],
    calibration: CalibrationSet,
) -> tuple[dict[str, Scales], tuple[str, ...]]:
    """Return the input scales of targets by name, and what to know of the text.

    Args:
        loaded: The float model.
        layers: Each layer, and the format of its input.
        calibration: What the model runs over.

    Raises:
        ConfigError: A layer saw nothing: no token reached it.
    """
    sequences = calibration.draw(loaded)
    seen: dict[str, Range] = {}
    num_before = len(loaded.hooks)
    for name, (target, fmt) in layers.items():
        change_inputs(loaded, target, partial(_widen, seen, name, fmt))
    try:
        with torch.inference_mode():
            for ids_S in sequences.ids:
                loaded.module(ids_S[None].to(loaded.device), use_cache=False, logits_to_keep=1)
    finally:
        while len(loaded.hooks) > num_before:
            loaded.hooks.pop().remove()
    if missing := sorted(set(layers) - set(seen)):
        raise ConfigError(
            f"calibration must reach every layer with static input scales, got no token for {', '.join(missing[:3])}; "
            "raise quant.calibration.num_sequences, or set static_input=false"
        )
    scales = {name: fmt.scales_of(seen[name]) for name, (_, fmt) in layers.items()}
    return scales, sequences.text.warnings


def _widen(seen: dict[str, Range], name: str, fmt: StaticFormat, x: Tensor) -> Tensor:
    found = fmt.measure(x.reshape(-1, x.shape[-1]))
    seen[name] = seen[name].union(found) if name in seen else found
    return x
