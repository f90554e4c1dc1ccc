"""Every recipe in conf/ composes, builds and does to the tiny model what its file says."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.config import build
from harness.errors import ConfigError
from harness.models.source import LoadedModel
from harness.models.targets import find_targets
from harness.recipe import QuantRecipe, audit_after, quantize

CONF = Path(__file__).parents[2] / "conf" / "quant"
NAMES = sorted(file.stem for file in CONF.glob("*.yaml"))
QUANTIZING = [name for name in NAMES if name != "none"]
GROUPED = [name for name in NAMES if name.rsplit("_", 1)[-1][1:].isdigit()]

Compose = Callable[..., dict[str, Any]]


def recipe(composed: Compose, *overrides: str) -> QuantRecipe:
    return build(composed(*overrides)["quant"], "quant")


def test_there_are_recipes() -> None:
    assert {"none", "int8_row", "fp8_tensor", "int8_group"} <= set(NAMES)
    assert len(GROUPED) >= 8


@pytest.mark.parametrize("name", QUANTIZING)
def test_weights_in_place_are_those_of_the_format(
    composed: Compose, tiny: LoadedModel, name: str
) -> None:
    chosen = recipe(composed, f"+quant={name}")
    before = {t.name: t.weight.detach().clone() for t in find_targets(tiny.module)}
    report = quantize(tiny, chosen).report
    fmt = chosen.rules["linear"].weight
    for target in find_targets(tiny.module):
        weight = before[target.name]
        expected = weight if target.alias else fmt.quantize(weight).dequantize()
        assert torch.equal(target.weight, expected), target.name
    assert report.num_quantized == 36864
    assert {layer.format for layer in report.layers} == {fmt.name}
    audit_after(tiny)


@pytest.mark.parametrize("name", NAMES)
def test_name_says_what_the_format_is(composed: Compose, name: str) -> None:
    chosen = recipe(composed, f"+quant={name}")
    element, _, granularity = name.partition("_")
    if name == "none":
        assert chosen == QuantRecipe()
        return
    expected = "g128" if granularity == "group" else granularity
    assert chosen.name == f"{element}_{expected}"
    weight = chosen.rules["linear"].weight
    assert weight.granularity.name == expected
    assert weight.element.name.startswith(element)
    assert chosen.skip == ("lm_head", "embed_tokens")


@pytest.mark.parametrize("name", GROUPED)
def test_group_size_of_the_name_is_that_of_the_format(composed: Compose, name: str) -> None:
    size = int(name.rsplit("_g", 1)[-1])
    assert recipe(composed, f"+quant={name}").rules["linear"].weight.granularity.block == (1, size)


@pytest.mark.parametrize("name", ["int8_group", "fp8_group", "int8_g64"])
def test_group_size_can_be_set(composed: Compose, name: str) -> None:
    chosen = recipe(composed, f"+quant={name}", "quant.group_size=16")
    assert chosen.name.endswith("_g16")
    assert chosen.rules["linear"].weight.granularity.block == (1, 16)


def test_no_recipe_is_the_baseline(composed: Compose) -> None:
    assert recipe(composed) == QuantRecipe()


@pytest.mark.parametrize("size", ["0", "-3"])
def test_group_size_without_meaning_is_a_configuration_error(composed: Compose, size: str) -> None:
    with pytest.raises(ConfigError, match=r"group_size|block"):
        recipe(composed, "+quant=int8_group", f"quant.group_size={size}")


@pytest.mark.parametrize("name", QUANTIZING)
def test_recipe_is_deterministic(composed: Compose, tiny: LoadedModel, name: str) -> None:
    chosen = recipe(composed, f"+quant={name}")
    first = quantize(tiny, chosen)
    tiny.restore()
    assert quantize(tiny, chosen) == first
