"""What a checkpoint layout is, and what layouts of integers have in common.

A layout says which formats it can hold, how the codes and scales of a layer become tensors of a file, and which
`quantization_config` tells a reader so. Codes are written as they are, never made again from values.
"""

import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from harness.backends.layer import LayerRule, QuantizedLayer
from harness.errors import UnsupportedRecipe
from harness.formats.integer import Integer
from harness.quant.qtype.descriptor import QTypeFormat, parse
from harness.quant.scale import FloatScale, PowerOfTwoScale
from harness.quant.schemes.affine import Affine
from harness.quant.schemes.block_scaled import BlockScaled
from harness.quant.schemes.shared_exponent import SharedExponent
from harness.quant.tensor import TensorFormat

FACTORS = (FloatScale, PowerOfTwoScale, SharedExponent)
"""Scale rules whose scales are one number for each block."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Packed:
    """A layer as a file holds it."""

    tensors: Mapping[str, Tensor]
    """By name inside the layer, such as `weight_packed`."""
    scale_error: float
    """Largest relative difference of a stored scale from the exact one; 0 if every bit is kept."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Contents:
    """What a checkpoint holds in low precision and what not, by module path."""

    quantized: Mapping[str, LayerRule]
    embedding: str
    """The token embedding."""
    head: str
    """The layer that makes logits."""
    kept: tuple[str, ...]
    """Linear layers, and other owners of matrices, that stay in float; the embedding is not among them."""
    memory: Mapping[str, str] = field(default_factory=dict)
    """Name in memory by path in files, where the two differ: layers of multimodal wrappers."""

    def known_as(self, paths: Iterable[str]) -> list[str]:
        """Return paths, and their names in memory: engines match names in files, transformers those in memory."""
        named = list(paths)
        return [*named, *(self.memory[path] for path in named if path in self.memory)]


@runtime_checkable
class Layout(Protocol):
    """How a quantized model is laid out on disk."""

    @property
    def name(self) -> str:
        """Name on the command line and in the manifest."""

    @property
    def holds(self) -> str:
        """What it can hold, for messages."""

    def refusal(self, rules: Mapping[str, LayerRule]) -> str | None:
        """Return why it cannot hold a model of such rules, or None."""

    def refuses_embedding(self, layer: QuantizedLayer) -> str | None:
        """Return why no reader loads a token embedding in this format, or None."""

    def pack(self, layer: QuantizedLayer) -> Packed:
        """Return the tensors of a layer.

        Raises:
            UnsupportedRecipe: It cannot hold a layer of this shape.
        """

    def config(self, contents: Contents) -> dict[str, Any]:
        """Return the `quantization_config` of config.json."""

    def files(self, config: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """Return other JSON files that readers look for, by name."""


def unwrapped(fmt: TensorFormat) -> TensorFormat:
    """Return the format that a descriptor names, or the format itself."""
    return parse(fmt.text).format() if isinstance(fmt, QTypeFormat) else fmt


def integer_format(fmt: TensorFormat) -> Affine | BlockScaled | None:
    """Return a format of integers with one factor, and maybe a zero point, for each block; None if it is another kind."""
    fmt = unwrapped(fmt)
    if isinstance(fmt, Affine):
        return fmt
    if not (isinstance(fmt, BlockScaled) and isinstance(fmt.scale, FACTORS)):
        return None
    return fmt if isinstance(fmt.element, Integer) and fmt.element.signed else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Integers:
    """A layer of integers: `(codes - zeros) * scales`, codes counted from 0."""

    bits: int
    codes: Tensor
    """int16 `[N, K]`, 0 .. 2^bits - 1."""
    zeros: Tensor | None
    """int16, one for each scale; None is the middle, 2^(bits-1)."""
    scales: Tensor
    """float32."""


def integers(layer: QuantizedLayer) -> Integers:
    """Return the integers of a layer whose format is an `integer_format`.

    Fractional steps (MXINT8) are powers of two, which scales take up exactly.
    """
    element, scales = layer.weight.element, layer.weight.scales
    assert isinstance(element, Integer)  # noqa: S101 - integer_format has checked it
    middle = 2 ** (element.bits - 1) if element.signed else 0
    zero = scales.zero_point
    return Integers(
        bits=element.bits,
        codes=(element.decode(layer.weight.codes) / element.step + middle).short(),
        zeros=None if zero is None else (zero.values + middle).short(),
        scales=scales.planes[0].values * element.step,
    )


def relative_error(stored: Tensor, exact: Tensor) -> float:
    """Return the largest `|stored - exact| / |exact|`; infinity where a scale was lost."""
    stored, exact = stored.double(), exact.double()
    error = ((stored - exact).abs() / exact.abs()).masked_fill(stored == exact, 0.0)
    return float(error.nan_to_num(nan=math.inf, posinf=math.inf).max()) if error.numel() else 0.0


def refuse_short_groups(layer: QuantizedLayer) -> None:
    """Raise UnsupportedRecipe for rows that do not end with a whole block."""
    columns, size = layer.weight.shape[-1], layer.format.granularity.block[1]
    if size > 0 and columns % size:
        raise UnsupportedRecipe(
            f"rows must be whole blocks of {size} in a checkpoint, got {columns} columns in {layer.name}; choose a "
            f"quant.group_size that divides {columns} ({divisors(columns)}), or add the layer to quant.skip"
        )


def divisors(n: int) -> str:
    """Return the group sizes from 16 to 256 that divide `n`, for messages."""
    fitting = [str(size) for size in range(16, 257, 16) if n % size == 0]
    return ", ".join(fitting) or "no multiple of 16 does"


def patterns(names: Collection[str], others: Collection[str]) -> list[str]:
    """Return regular expressions of whole names that match all of `names` and none of `others`.

    Layers that differ in their numbers alone share one, if all of them are meant.
    """
    stay = {_template(name) for name in others}
    chosen = ((name, _template(name)) for name in names)
    return list(
        dict.fromkeys(
            f"{re.escape(name) if template in stay else template}$" for name, template in chosen
        )
    )


def _template(name: str) -> str:
    """Return the pattern of a name in which any number may stand for each number."""
    return re.sub(r"(?<=\\\.)\d+(?=\\\.|$)", r"\\d+", re.escape(name))
