"""What the reader of a quantized layout returns: float weights, and what the checkpoint rounds beside its weights.

A reader dequantizes each matrix by its own arithmetic, in float32, and casts once to the model's type. transformers then loads the
weights as those of the float model, which stacks experts and renames tensors as it does for any float checkpoint.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from harness.models.prequantized import Settings

Rounding = Callable[[Tensor], Tensor]
"""Rounds an activation `[.., K]`; same shape and type."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Dequantized:
    """A quantized checkpoint as float weights and rounded activations."""

    weights: Mapping[str, Tensor]
    """By the names that the float checkpoint would have, such as `model.layers.0.mlp.experts.3.up_proj.weight`."""
    inputs: Mapping[str, Rounding] = field(default_factory=dict)
    """What rounds the input of a layer, by the layer's path in the files, such as `model.layers.0.mlp.experts.3.up_proj`."""
    outputs: Mapping[str, Rounding] = field(default_factory=dict)
    """What rounds the output of a layer."""
    warnings: tuple[str, ...] = ()
    """What the files hold and the model does not do."""


Reader = Callable[[Path, Settings, torch.dtype], Dequantized]
"""Reads the folder of a checkpoint, given the settings of its `config.json` and the type of the weights; raises ModelError."""
