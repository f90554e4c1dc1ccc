"""What layouts share: names as patterns, and how far a stored scale is from the exact one."""

import math
import re

import pytest
import torch

from harness.backends.layer import QuantizedLayer
from harness.export.layouts.layout import (
    divisors,
    integer_format,
    integers,
    patterns,
    relative_error,
)
from harness.formats.integer import Integer
from harness.formats.minifloat import Minifloat
from harness.quant.granularity import Granularity
from harness.quant.primitives import quantize
from harness.quant.qtype.descriptor import QTypeFormat
from harness.quant.scale import PowerOfTwoScale
from harness.quant.schemes.affine import Affine, FloatZero
from harness.quant.schemes.block_scaled import BlockScaled

G16 = Granularity(block=(1, 16))


def matching(texts: list[str], names: list[str]) -> list[str]:
    return [name for name in names if any(re.match(text, name) for text in texts)]


NAMES = [
    f"model.layers.{i}.{layer}"
    for i in (0, 1, 10)
    for layer in ("mlp.up_proj", "mlp.up_proj2", "self_attn.q_proj", "mlp.experts.3.w1")
] + ["lm_head"]


def test_layers_that_differ_in_numbers_share_a_pattern() -> None:
    chosen = [name for name in NAMES if name.endswith("up_proj")]
    found = patterns(chosen, [name for name in NAMES if name not in chosen])
    assert found == [r"model\.layers\.\d+\.mlp\.up_proj$"]
    assert matching(found, NAMES) == chosen


@pytest.mark.parametrize("number", [0, 1, 10])
def test_one_layer_of_several_alike_is_named_alone(number: int) -> None:
    chosen = [name for name in NAMES if f".{number}." in name]
    found = patterns(chosen, [name for name in NAMES if name not in chosen])
    assert matching(found, NAMES) == chosen


def test_a_pattern_ends_where_the_name_ends() -> None:
    assert matching(patterns(["lm_head"], []), ["lm_head", "lm_head_2"]) == ["lm_head"]


def test_relative_error_is_the_largest_and_infinite_for_a_lost_number() -> None:
    exact = torch.tensor([1.0, -2.0, 0.0, 4.0])
    assert relative_error(exact, exact) == 0
    assert relative_error(torch.tensor([1.0, -2.5, 0.0, 4.0]), exact) == 0.25
    assert relative_error(torch.tensor([1.0, -2.0, 1.0, 4.0]), exact) == math.inf
    assert relative_error(torch.tensor([torch.inf, -2.0, 0.0, 4.0]), exact) == math.inf
    assert relative_error(torch.tensor([0.0, -2.0, 0.0, 4.0]), exact) == 1


def test_divisors_are_sizes_that_fit() -> None:
    assert divisors(576) == "16, 32, 48, 64, 96, 144, 192"
    assert divisors(80) == "16, 80"
    assert divisors(7) == "no multiple of 16 does"


INTEGER_FORMATS = [
    BlockScaled(element=Integer(bits=4), granularity=G16),
    BlockScaled(element=Integer(bits=8, fraction_bits=6), granularity=G16, scale=PowerOfTwoScale()),
    Affine(element=Integer(bits=8, narrow=False), granularity=G16),
    Affine(element=Integer(bits=4, signed=False), granularity=G16),
]


@pytest.mark.parametrize("fmt", INTEGER_FORMATS, ids=lambda fmt: fmt.name)
def test_integers_are_the_same_numbers_counted_from_zero(fmt: BlockScaled | Affine) -> None:
    assert integer_format(fmt) is fmt
    weight = torch.randn(6, 48, generator=torch.Generator().manual_seed(0)) * 0.01
    made = quantize(weight, fmt)
    found = integers(QuantizedLayer(name="layer", rule="r", format=fmt, weight=made, rel_error=0.0))
    assert found.codes.min() >= 0
    assert found.codes.max() < 2**found.bits
    zeros = torch.full((6, 3), 2 ** (found.bits - 1)) if found.zeros is None else found.zeros
    blocks = found.codes.view(6, 3, 16).float() - zeros[..., None]
    assert torch.equal((blocks * found.scales[..., None]).view(6, 48), made.dequantize())


def test_other_formats_are_no_integers() -> None:
    assert integer_format(FloatZero(granularity=G16)) is None
    e2m1 = Minifloat(exponent_bits=2, mantissa_bits=1)
    assert integer_format(BlockScaled(element=e2m1, granularity=G16)) is None
    unsigned = Integer(bits=4, signed=False)
    assert integer_format(BlockScaled(element=unsigned, granularity=G16)) is None
    named = integer_format(QTypeFormat(text="e0m7k8b32"))
    assert named is not None
    assert named.element.bits == 8
