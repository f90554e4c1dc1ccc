"""What the reader of a quantized layout returns: float weights, and which activations the checkpoint rounds.

A reader dequantizes each matrix by its own arithmetic, in float32, and casts once to the model's type. transformers then loads the
weights as those of the float model, which stacks experts and renames tensors as it does for any float checkpoint.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
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
from harness.models.checkpoints.prequantized import Settings

E8M0_BIAS = 127
"""What is added to an exponent of two, so that a byte holds it."""


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
    """What a user must know: parts of the checkpoint that the model does not apply, or applies otherwise than serving engines."""


Reader = Callable[[Path, Settings, torch.dtype, PreTrainedModel], Dequantized]
"""Reads a folder, given the settings of its `config.json`, the type of the weights and the float model on the meta device.

Raises ModelError where the layout is not what the settings say.
"""


def read_packed(
    folder: Path,
    dtype: torch.dtype,
    shape: PreTrainedModel,
    *,
    layout: str,
    parts: Collection[str],
    dequantize: Callable[[Mapping[str, Tensor]], Tensor],
) -> Dequantized:
    """Read a folder whose quantized layers have no `weight`, but parts such as `qweight` and `scales` (GPTQ, AWQ).

    Args:
        folder: The checkpoint.
        dtype: Type of the weights that are returned.
        shape: The float model on the meta device.
        layout: Its name, for messages.
        parts: Last components of the names of a layer's tensors.
        dequantize: Makes the float32 weight `[N, K]` of a layer's parts; raises KeyError or ValueError if they do not fit.

    Raises:
        ModelError: No layer is packed, or the parts of one do not fit.
    """
    weights: dict[str, Tensor] = {}
    packed: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for key, tensor in read_tensors(folder, shape).items():
        path, _, part = key.rpartition(".")
        if part in parts:
            packed[path][part] = tensor
        else:
            weights[key] = tensor
    if not packed:
        raise ModelError(
            f"a checkpoint in the {layout} must hold packed weights (qweight), got none in {folder}; "
            "take quantization_config out of config.json if its weights are float ones"
        )
    for path, tensors in packed.items():
        try:
            weight = dequantize(tensors)
        except (KeyError, ValueError) as reason:
            raise ModelError(
                f"layer {path} must be in the {layout}, got {reason} in {folder}; download or convert it again"
            ) from reason
        weights[f"{path}.weight"] = weight.to(dtype)
    return Dequantized(
        weights=weights,
        quantized=tuple(f"{path}.weight" for path in packed),
        packed_bits=sum(map(bits_of, packed.values())),
    )


def read_tensors(folder: Path, shape: PreTrainedModel) -> dict[str, Tensor]:
    """Return the tensors of a folder, without those that the model's class ignores by design."""
    tensors: dict[str, Tensor] = {}
    for file in weight_files(folder):
        with safe_open(file, "pt") as opened:
            names = [name for name in opened.keys() if not is_ignored_by_class(name, shape)]  # noqa: SIM118 - it is no mapping
            tensors |= {name: opened.get_tensor(name) for name in names}
    return tensors


def module_at(shape: PreTrainedModel, path: str) -> nn.Module | None:
    """Return the module of a layer by its path in the files; None for one expert of a stack, which has no module."""
    # Files that were saved without the head have no prefix such as `model.`.
    for name in (path, f"{shape.base_model_prefix}.{path}"):
        with suppress(AttributeError):
            return shape.get_submodule(name)
    return None


def decode_e8m0(exponents: Tensor) -> Tensor:
    """Return the float32 scales that bytes of the format E8M0 stand for (OCP Microscaling Formats 1.0), powers of two."""
    # 255 is NaN in E8M0; here it becomes infinity, and the loader refuses weights that are not finite.
    return torch.ldexp(torch.ones(exponents.shape), exponents.int() - E8M0_BIAS)


def bits_of(tensors: Mapping[str, Tensor]) -> int:
    """Return the size of tensors as they are stored [bit]."""
    return sum(8 * tensor.nbytes for tensor in tensors.values())
