"""Static scales of activations: the ranges that an unquantized model shows on calibration text.

A static scale saves the search for the largest value at each call. Activations beyond the range
that calibration saw saturate.
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
    """Return the static scales of activations by target, and the warnings of the text.

    Args:
        loaded: The unquantized model.
        layers: Target and format of the activation, by name of the target.
        calibration: Sequences that the model runs over.

    Raises:
        ConfigError: No token reached some layer.
    """
    sequences = calibration.draw(loaded)
    ranges: dict[str, Range] = {}
    num_before = len(loaded.hooks)
    for name, (target, fmt) in layers.items():
        change_inputs(loaded, target, partial(_widen, ranges, name, fmt))
    try:
        with torch.inference_mode():
            for ids_S in sequences.ids:
                # One logit: the LM head over a whole sequence would be computed for nothing.
                loaded.module(ids_S[None].to(loaded.device), use_cache=False, logits_to_keep=1)
    finally:
        # Take off the hooks of this call only.
        while len(loaded.hooks) > num_before:
            loaded.hooks.pop().remove()
    if missing := sorted(set(layers) - set(ranges)):
        raise ConfigError(
            "calibration must reach every layer with static input scales, got no token for "
            f"{', '.join(missing[:3])}; raise quant.calibration.num_sequences, or set "
            "static_input=false"
        )
    scales = {name: fmt.scales_of(ranges[name]) for name, (_, fmt) in layers.items()}
    return scales, sequences.text.warnings


def _widen(ranges: dict[str, Range], name: str, fmt: StaticFormat, x: Tensor) -> Tensor:
    """Widen the range of a target by an activation, and return the activation unchanged."""
    found = fmt.measure(x.reshape(-1, x.shape[-1]))
    ranges[name] = ranges[name].union(found) if name in ranges else found
    return x
