"""What the reader of a quantized layout returns: float weights, and which activations the checkpoint rounds.

A reader dequantizes each matrix by its own arithmetic, in float32, and casts once to the model's type. transformers then loads the
weights as those of the float model, which stacks experts and renames tensors as it does for any float checkpoint.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel

from harness.models.folder_files import weight_files
from harness.models.loading_report import is_ignored_by_class
from harness.models.prequantized import Settings


class Rounding(Protocol):
    """Rounds an activation `[.., K]` to a format and back; same shape and type."""

    @property
    def name(self) -> str:
        """The format in words, such as `int8 by token`."""

    def __call__(self, x: Tensor, /) -> Tensor:
        """Return `x` rounded."""


class CacheRounding(NamedTuple):
    """What rounds the keys and values of an attention layer `[batch, heads, tokens, head_dim]`, before the cache takes them."""

    keys: Rounding
    values: Rounding


@dataclass(frozen=True, kw_only=True, slots=True)
class Dequantized:
    """A quantized checkpoint as float weights and rounded activations. Paths are those of the files."""

    weights: Mapping[str, Tensor]
    """By the names that the float checkpoint would have, such as `model.layers.0.mlp.experts.3.up_proj.weight`; matrices `[N, K]`."""
    quantized: tuple[str, ...]
    """Names of the weights that the files hold as codes."""
    packed_bits: int
    """Codes at the width of their format, and everything that is stored beside them for the weights [bit]."""
    inputs: Mapping[str, Rounding] = field(default_factory=dict)
    """What rounds the input of a layer, by its path, such as `model.layers.0.mlp.experts.3.up_proj`."""
    outputs: Mapping[str, Rounding] = field(default_factory=dict)
    """What rounds the output of a layer, by its path."""
    cache: Mapping[str, CacheRounding] = field(default_factory=dict)
    """What rounds keys and values, by the path of the attention layer."""
    warnings: tuple[str, ...] = ()
    """What the files hold and the model does not do."""


Reader = Callable[[Path, Settings, torch.dtype, PreTrainedModel], Dequantized]
"""Reads a folder, given the settings of its `config.json`, the type of the weights and the float model on the meta device.

Raises ModelError where the layout is not what the settings say.
"""


def read_tensors(folder: Path, shape: PreTrainedModel) -> dict[str, Tensor]:
    """Return the tensors of a folder that are the model's; those that its class leaves out by design are not among them."""
    tensors: dict[str, Tensor] = {}
    for file in weight_files(folder):
        with safe_open(file, "pt") as opened:
            names = [name for name in opened.keys() if not is_ignored_by_class(name, shape)]  # noqa: SIM118 - it is no mapping
            tensors |= {name: opened.get_tensor(name) for name in names}
    return tensors


def module_at(shape: PreTrainedModel, path: str) -> nn.Module | None:
    """Return what a layer of the files is in the float model; None for one expert of a stack."""
    # Files of a body alone leave the prefix out.
    for name in (path, f"{shape.base_model_prefix}.{path}"):
        with suppress(AttributeError):
            return shape.get_submodule(name)
    return None


def bits_of(tensors: Mapping[str, Tensor]) -> int:
    """Return the size of tensors as they are stored [bit]."""
    return sum(8 * tensor.nbytes for tensor in tensors.values())
