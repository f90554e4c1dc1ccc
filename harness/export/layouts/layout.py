"""The protocol of a checkpoint layout, and what layouts of integers share.

A layout says which formats it can hold, how codes and scales of a layer become tensors of a file,
and which `quantization_config` tells readers so. Codes are stored as the recipe has them. They are
never made again from values.
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

ONE_FACTOR = (FloatScale, PowerOfTwoScale, SharedExponent)
"""Scale rules with one number for each block."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Packed:
    """The tensors of a layer, as a file holds them."""

    tensors: Mapping[str, Tensor]
    """Tensors by name inside the layer, such as `weight_packed`."""
    scale_error: float
    """Largest relative difference between stored and exact scales; 0 if every bit is kept."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Contents:
    """Which layers of a checkpoint are quantized, by path in the files."""

    quantized: Mapping[str, LayerRule]
    embedding: str
    """The token embedding."""
    head: str
    """The LM head."""
    kept: tuple[str, ...]
    """Linear layers, and other owners of matrices, that are not quantized; without the
    embedding."""
    memory: Mapping[str, str] = field(default_factory=dict)
    """Path in memory by path in the files, where the two differ (multimodal wrappers)."""

    def known_as(self, paths: Iterable[str]) -> list[str]:
        """Return paths and their names in memory: engines match paths, transformers the names."""
        named = list(paths)
        return [*named, *(self.memory[path] for path in named if path in self.memory)]


@runtime_checkable
class Layout(Protocol):
    """Protocol: how a quantized model is laid out on disk."""

    @property
    def name(self) -> str:
        """Name on the command line and in the manifest."""

    @property
    def holds(self) -> str:
        """The formats that it can hold, for messages."""

    def unsupported(self, rules: Mapping[str, LayerRule]) -> str | None:
        """Return why it cannot hold a model with such rules; None if it can."""

    def unsupported_embedding(self, layer: QuantizedLayer) -> str | None:
        """Return why no reader loads a token embedding in this format; None if one does."""

    def pack(self, layer: QuantizedLayer) -> Packed:
        """Return the tensors of a layer.

        Raises:
            UnsupportedRecipe: It cannot hold a layer of this shape.
        """

    def config(self, contents: Contents) -> dict[str, Any]:
        """Return the `quantization_config` of config.json."""

    def files(self, config: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """Return more JSON files that readers look for, by name."""


def unwrapped(fmt: TensorFormat) -> TensorFormat:
    """Return the format that a descriptor such as `int4_g64` names, or the format itself."""
    return parse(fmt.text).format() if isinstance(fmt, QTypeFormat) else fmt


def integer_format(fmt: TensorFormat) -> Affine | BlockScaled | None:
    """Return a format of integers with one scale (and zero point) a block; None for others."""
    fmt = unwrapped(fmt)
    if isinstance(fmt, Affine):
        return fmt
    if not (isinstance(fmt, BlockScaled) and isinstance(fmt.scale, ONE_FACTOR)):
        return None
    return fmt if isinstance(fmt.element, Integer) and fmt.element.signed else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Integers:
    """A layer of integers: w = (code - zero) * scale, with codes counted from 0."""

    bits: int
    codes: Tensor
    """int16 `[N, K]`, 0 .. 2^bits - 1."""
    zeros: Tensor | None
    """int16, one for each scale; None: the middle, 2^(bits-1)."""
    scales: Tensor
    """float32."""


def integers(layer: QuantizedLayer) -> Integers:
    """Return the integers of a layer whose format is an `integer_format`.

    Fractional steps (MXINT8) are powers of two. The scales take them up exactly.
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
    """Return the largest `|stored - exact| / |exact|`; infinity if a scale became 0 or infinite."""
    stored, exact = stored.double(), exact.double()
    error = ((stored - exact).abs() / exact.abs()).masked_fill(stored == exact, 0.0)
    return float(error.nan_to_num(nan=math.inf, posinf=math.inf).max()) if error.numel() else 0.0


def check_whole_groups(layer: QuantizedLayer) -> None:
    """Raise UnsupportedRecipe for a layer whose rows end with a short group."""
    columns, size = layer.weight.shape[-1], layer.format.granularity.block[1]
    if size > 0 and columns % size:
        raise UnsupportedRecipe(
            f"rows must be whole blocks of {size} in a checkpoint, got {columns} columns in "
            f"{layer.name}; choose a quant.group_size that divides {columns} "
            f"({divisors(columns)}), or add the layer to quant.skip"
        )


def divisors(n: int) -> str:
    """Return the multiples of 16, up to 256, that divide `n`, for messages."""
    fitting = [str(size) for size in range(16, 257, 16) if n % size == 0]
    return ", ".join(fitting) or "no multiple of 16 does"


def patterns(names: Collection[str], others: Collection[str]) -> list[str]:
    """Return expressions for whole names that match all of `names` and none of `others`.

    Names that differ only in numbers share an expression, unless one of `others` would match it.
    """
    stay = {_template(name) for name in others}
    chosen = ((name, _template(name)) for name in names)
    return list(
        dict.fromkeys(
            f"{re.escape(name) if template in stay else template}$" for name, template in chosen
        )
    )


def _template(name: str) -> str:
    """Return an expression for a name in which any number may replace each number."""
    return re.sub(r"(?<=\\\.)\d+(?=\\\.|$)", r"\\d+", re.escape(name))
