"""Objects that tests of backends and recipes need: formats, recipes, quantized layers, data."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from repository import CONF
from torch import Tensor

from harness.backends.layer import LayerRule, QuantizedLayer
from harness.config import build, register, resolve
from harness.data.source import Question, QuestionSet, Text
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
    """INT8 sums of a processor without 8-bit dot products: pairs saturate in 16 bits."""
    pairs = (a_MK.long()[:, None] * b_NK.long()[None]).unflatten(-1, (-1, 2)).sum(-1)
    return pairs.clamp(-(2**15), 2**15 - 1).sum(-1)


def relative_error(found: Tensor, exact: Tensor) -> float:
    """`|found - exact| / |exact|`, Frobenius norms in float64."""
    return float((found.double() - exact.double()).norm() / exact.double().norm())


def int8_row_recipe(**changes: Any) -> QuantRecipe:
    """INT8 per row over every linear layer of the decoder, fake-quantized, with changes."""
    rules = {"linear": LayerRule(match="*", weight=int8_row())}
    return QuantRecipe(**({"name": "int8_row", "rules": rules} | changes))


def rounded_int8(x: Tensor, axis: int = -1) -> Tensor:
    """INT8 by hand, with one scale for all numbers along an axis."""
    scale = x.abs().amax(axis, keepdim=True) / 127
    return (x / torch.where(scale == 0, 1, scale)).round() * scale


@dataclass(frozen=True)
class Examples:
    """Questions, and solved ones beside them."""

    asked: str
    solved: Sequence[str]

    def text(self) -> Text:
        return Text(name="scored", text="what is scored", sha256="0", num_rows=1)

    def questions(self) -> QuestionSet:
        def question(name: str) -> Question:
            return Question(
                id=name,
                subject="s",
                question=f"Why {name}?",
                choices=("a", "b", "c", "d"),
                answer=1,
            )

        return QuestionSet(
            name="set",
            questions=(question(self.asked),),
            examples={"s": tuple(question(name) for name in self.solved)},
            default_shots=0,
            max_shots=0,
        )
