"""Objects that many test files need: formats, recipes, quantized layers."""

from functools import cache
from typing import Any

from hydra import compose, initialize_config_dir
from repository import CONF
from torch import Tensor

from harness.backends.layer import QuantizedLayer
from harness.config import build, register, resolve
from harness.formats.integer import Integer
from harness.formats.minifloat import Minifloat
from harness.models.targets.targets import Target
from harness.quant.granularity import Granularity
from harness.quant.primitives import quantize
from harness.quant.schemes.block_scaled import BlockScaled
from harness.quant.tensor import TensorFormat
from harness.recipe import QuantRecipe

INT8 = Integer(bits=8)
E4M3 = Minifloat(exponent_bits=4, mantissa_bits=3, specials="nan")
E5M2 = Minifloat(exponent_bits=5, mantissa_bits=2, specials="ieee")


def blocks(element: Any, rows: int = 1, columns: int = -1, **options: Any) -> BlockScaled:
    """A block-scaled format, per row unless told otherwise."""
    granularity = Granularity(block=(rows, columns))
    return BlockScaled(element=element, granularity=granularity, **options)


def int8_row() -> BlockScaled:
    return blocks(INT8)


def fp8_row() -> BlockScaled:
    return blocks(E4M3)


@cache
def conf_quant(name: str | None, *overrides: str) -> dict[str, Any]:
    """The configuration of a recipe of conf/quant, or of none; composing it takes a while."""
    register()
    words = [*([f"+quant={name}"] if name else []), "model=tiny", "data=embedded", *overrides]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        made: dict[str, Any] = resolve(compose("config", words))["quant"]
    return made


@cache
def conf_recipe(name: str | None, *overrides: str) -> QuantRecipe:
    """A recipe of conf/quant, or what no recipe means. Recipes are immutable."""
    made: QuantRecipe = build(conf_quant(name, *overrides), "quant")
    return made


def quantized_layer(
    target: Target, weight: TensorFormat, activation: TensorFormat | None = None
) -> QuantizedLayer:
    """The weight of a target in a format, as a recipe hands it to a backend."""
    return QuantizedLayer(
        name=target.name,
        rule="linear",
        format=weight,
        weight=quantize(target.weight.detach(), weight),
        rel_error=0.0,
        input=activation,
    )


def saturating_matmul(a_MK: Tensor, b_NK: Tensor) -> Tensor:
    """INT8 sums as processors without 8-bit dot products may make them: pairs saturate in 16 bits."""
    pairs = (a_MK.long()[:, None] * b_NK.long()[None]).unflatten(-1, (-1, 2)).sum(-1)
    return pairs.clamp(-(2**15), 2**15 - 1).sum(-1)


def relative_error(found: Tensor, exact: Tensor) -> float:
    """`|found - exact| / |exact|`, Frobenius norms in float64."""
    return float((found.double() - exact.double()).norm() / exact.double().norm())
