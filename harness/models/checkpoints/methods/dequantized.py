"""What a reader of a quantized layout returns: float weights, and what rounds activations.

1. A reader dequantizes each matrix in float32, by the arithmetic of its layout, and casts it once
   to the type of the model.
2. transformers loads the result as if it were an unquantized checkpoint. It renames tensors and
   stacks experts by its own rules.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel

from harness.errors import ModelError
from harness.models.checkpoints.folder_files import weight_files
from harness.models.checkpoints.loading_report import is_ignored_by_class
from harness.models.checkpoints.settings import Settings


class ActivationRounding(Protocol):
    """Rounds an activation `[.., K]` to a format and back; same shape and type."""

    @property
    def name(self) -> str:
        """The format in words, such as `int8 by token`."""

    def __call__(self, x: Tensor, /) -> Tensor:
        """Return `x` rounded."""


class CacheRounding(NamedTuple):
    """Rounds keys and values `[batch, heads, tokens, head_dim]` before the cache stores them."""

    keys: ActivationRounding
    values: ActivationRounding


@dataclass(frozen=True, kw_only=True, slots=True)
class Dequantized:
    """A quantized checkpoint as float weights and rounded activations, by path in the files."""

    weights: Mapping[str, Tensor]
    """Matrices `[N, K]` and other tensors, under the names that an unquantized checkpoint would
    have, such as `model.layers.0.mlp.experts.3.up_proj.weight`."""
    quantized: tuple[str, ...]
    """Names of the weights that the files hold as codes."""
    packed_bits: int
    """Size of codes, at the width of their format, and of all that is stored beside them [bit]."""
    inputs: Mapping[str, ActivationRounding] = field(default_factory=dict)
    """Rounding of the activation of a layer, by path, such as
    `model.layers.0.mlp.experts.3.up_proj`."""
    outputs: Mapping[str, ActivationRounding] = field(default_factory=dict)
    """Rounding of the output of a layer, by path."""
    cache: Mapping[str, CacheRounding] = field(default_factory=dict)
    """Rounding of keys and values, by path of the attention layer."""
    warnings: tuple[str, ...] = ()
    """Notes for the user: where the model differs from the checkpoint in a serving engine."""


Reader = Callable[[Path, Settings, torch.dtype, PreTrainedModel], Dequantized]
"""Reads a folder.

Args:
    folder: The checkpoint.
    settings: The quantization settings of its `config.json`.
    dtype: Type of the weights that are returned.
    shape: The unquantized model, on the meta device.

Raises:
    ModelError: The layout is not what the settings say.
"""


@contextmanager
def errors_name_layer(path: str, must: str, folder: Path) -> Iterator[None]:
    """Context manager: turns errors about one layer into a ModelError that names the layer.

    Args:
        path: The layer.
        must: What must be true of it, such as `be in the GPTQ layout`.
        folder: The checkpoint.
    """
    try:
        yield
    except (KeyError, ValueError) as reason:
        raise ModelError(
            f"layer {path} must {must}, got {reason} in {folder}; download or convert it again"
        ) from reason


def check_parts(parts: Mapping[str, Tensor], needed: Collection[str]) -> None:
    """Check that a layer has the tensors that it needs.

    Raises:
        ValueError: Some are missing.
    """
    if missing := [part for part in needed if part not in parts]:
        raise ValueError(f"no {', '.join(missing)}")


def read_tensors(folder: Path, shape: PreTrainedModel) -> dict[str, Tensor]:
    """Return the tensors of a folder, without those that the model's class ignores by design."""
    tensors: dict[str, Tensor] = {}
    for file in weight_files(folder):
        with safe_open(file, "pt") as opened:
            names = [name for name in opened.keys() if not is_ignored_by_class(name, shape)]  # noqa: SIM118 - no mapping
            tensors |= {name: opened.get_tensor(name) for name in names}
    return tensors


def module_at(shape: PreTrainedModel, path: str) -> nn.Module | None:
    """Return the module of a layer by its path in the files; None for one expert of a stack."""
    # Files of a model that was saved without its head lack a prefix such as `model.`.
    for name in (path, f"{shape.base_model_prefix}.{path}"):
        with suppress(AttributeError):
            return shape.get_submodule(name)
    return None
