"""Every recipe in conf/ composes, builds and does to the tiny model what its file says."""

import math
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from repository import ROOT
from torch import nn

from harness.config import build
from harness.errors import ConfigError, UnsupportedRecipe
from harness.models.loaded import LoadedModel
from harness.models.targets.targets import Target, find_targets
from harness.quant.primitives import fake_quantize, quantize
from harness.recipe import QuantRecipe, audit_after
from harness.recipe import quantize as quantize_model

CONF = ROOT / "conf" / "quant"
FILES = sorted(CONF.glob("*.yaml"))
"""Recipes; what they share lies in folders beside them."""
REAL = [file.stem for file in FILES if re.search(r"^(torchao|bnb)_|_real$", file.stem)]
"""Recipes of real backends."""
NAMES = [file.stem for file in FILES if file.stem not in REAL]
QUANTIZING = [name for name in NAMES if name != "none"]
SIZED = [name for name in NAMES if re.search(r"_g\d+$", name)]
GROUPED = [name for name in NAMES if "\ngroup_size:" in (CONF / f"{name}.yaml").read_text("utf-8")]
WITH_INPUTS = [
    name for name in NAMES if "rules.linear.input" in (CONF / f"{name}.yaml").read_text("utf-8")
]
DYNAMIC = [name for name in WITH_INPUTS if "static" not in name]

Compose = Callable[..., dict[str, Any]]
each_quantizing = pytest.mark.parametrize("name", QUANTIZING)


BUILT: dict[tuple[str, ...], QuantRecipe] = {}
"""Recipes are immutable, and composing one takes longer than using it."""


def recipe(composed: Compose, *overrides: str) -> QuantRecipe:
    if overrides not in BUILT:
        BUILT[overrides] = build(composed(*overrides)["quant"], "quant")
    return BUILT[overrides]


def linears(loaded: LoadedModel) -> list[Target]:
    """Return the targets that every recipe takes: all but the head and the embedding."""
    return [
        target
        for target in find_targets(loaded.module)
        if isinstance(target.owner, nn.Linear) and not target.alias and "lm_head" not in target.name
    ]


def test_there_are_recipes() -> None:
    assert {"none", "int8_row", "fp8_tensor", "int8_group", "mxfp4", "hif4"} <= set(NAMES)
    assert len(SIZED) >= 8
    assert {"int8_group", "mxfp8", "nf4_b64"} <= set(GROUPED)
    assert {"w8a8", "w4a4_mxfp4"} <= set(WITH_INPUTS)


@each_quantizing
def test_weights_in_place_are_those_of_the_format(
    composed: Compose, tiny: LoadedModel, name: str
) -> None:
    chosen = recipe(composed, f"+quant={name}")
    before = {t.name: t.weight.detach().clone() for t in find_targets(tiny.module)}
    report = quantize_model(tiny, chosen).report
    fmt = chosen.rules["linear"].weight
    changed = 0
    for target in find_targets(tiny.module):
        weight = before[target.name]
        kept = target.alias or "embed" in target.name or "lm_head" in target.name
        expected = weight if kept else quantize(weight, fmt).dequantize()
        assert torch.equal(target.weight, expected), target.name
        changed += not torch.equal(target.weight, weight)
    assert changed == len(report.layers)
    assert report.num_quantized == 36864
    assert {layer.format for layer in report.layers} == {fmt.name}
    audit_after(tiny)


@each_quantizing
def test_every_weight_is_brought_back(composed: Compose, tiny: LoadedModel, name: str) -> None:
    before = {
        key: (value, value.clone()) for key, value in tiny.module.state_dict(keep_vars=True).items()
    }
    report = quantize_model(tiny, recipe(composed, f"+quant={name}")).report
    hooks = sum(len(module._forward_pre_hooks) for module in tiny.module.modules())
    assert hooks == (len(report.layers) if name in WITH_INPUTS else 0)
    assert bool(report.input_formats) is (name in WITH_INPUTS)
    tiny.restore()
    after = tiny.module.state_dict(keep_vars=True)
    for key, (parameter, value) in before.items():
        assert after[key] is parameter
        assert torch.equal(parameter, value)
    assert all(not module._forward_pre_hooks for module in tiny.module.modules())


@pytest.mark.parametrize("name", DYNAMIC)
def test_inputs_are_rounded_at_every_linear_layer_until_restored(
    composed: Compose, tiny: LoadedModel, name: str
) -> None:
    chosen = recipe(composed, f"+quant={name}")
    fmt = chosen.rules["linear"].input
    assert fmt is not None
    report = quantize_model(tiny, chosen).report
    assert report.input_formats == {"linear": fmt.name}
    layers = [target.owner for target in linears(tiny)]
    assert len(layers) == len(report.layers)
    generator = torch.Generator().manual_seed(0)
    for layer in layers:
        assert len(layer._forward_pre_hooks) == 1
        # Two sequences of five tokens: they are one matrix to the format.
        x = torch.randn(2, 5, layer.in_features, generator=generator)
        rounded = fake_quantize(x.view(10, -1), fmt).view(x.shape)
        expected = nn.functional.linear(rounded, layer.weight, layer.bias)
        assert torch.equal(layer(x), expected)
        assert not torch.equal(expected, nn.functional.linear(x, layer.weight, layer.bias))
    tiny.restore()
    assert all(not layer._forward_pre_hooks for layer in layers)
    x = torch.randn(3, layers[0].in_features, generator=generator)
    assert torch.equal(layers[0](x), nn.functional.linear(x, layers[0].weight, layers[0].bias))


@pytest.mark.parametrize("name", NAMES)
def test_name_says_what_the_formats_are(composed: Compose, name: str) -> None:
    chosen = recipe(composed, f"+quant={name}")
    if name == "none":
        assert chosen == QuantRecipe()
        return
    size = chosen.group_size
    rule = chosen.rules["linear"]
    assert chosen.name in {
        name,
        name.replace("group", f"g{size}"),
        f"{name}_g{size}",
        rule.weight.name,
    }
    assert chosen.skip == ("lm_head", "embed_tokens")
    if rule.input is not None:
        widths = re.match(r"w(\d+)a(\d+)", name)
        assert widths is not None
        assert [int(w) for w in widths.groups()] == [
            rule.weight.element.bits,
            rule.input.element.bits,
        ]
        assert ("static" in name) is rule.static_input
        words = [word for word in name.split("_")[1:] if word != "static"]
        assert all(word in fmt.name for word in words for fmt in (rule.weight, rule.input))
        return
    shown = rule.weight.name.replace("128x128", "block")
    # Each word of the name, such as int4, g64, asym or mse, is one of the format's name or begins it.
    assert all(
        word in shown.split("_") or shown.startswith(word) for word in chosen.name.split("_")
    )


@pytest.mark.parametrize("name", SIZED)
def test_group_size_of_the_name_is_that_of_the_format(composed: Compose, name: str) -> None:
    size = int(name.rsplit("_g", 1)[-1])
    chosen = recipe(composed, f"+quant={name}")
    assert chosen.rules["linear"].weight.granularity.block == (1, size)
    assert chosen.group_size == size


@pytest.mark.parametrize("name", sorted({*GROUPED} - {*SIZED}))
def test_group_size_can_be_set(composed: Compose, name: str) -> None:
    chosen = recipe(composed, f"+quant={name}", "quant.group_size=16")
    assert re.search(r"_[gb]16(_|$)", chosen.name)
    assert chosen.rules["linear"].weight.granularity.block == (1, 16)


def test_no_recipe_is_the_baseline(composed: Compose) -> None:
    assert recipe(composed) == QuantRecipe()


@pytest.mark.parametrize("size", ["0", "-3"])
def test_group_size_without_meaning_is_a_configuration_error(composed: Compose, size: str) -> None:
    with pytest.raises(ConfigError, match=r"group_size|block"):
        recipe(composed, "+quant=int8_group", f"quant.group_size={size}")


@each_quantizing
def test_recipe_is_deterministic_and_its_bits_are_counted(
    composed: Compose, tiny: LoadedModel, name: str
) -> None:
    chosen = recipe(composed, f"+quant={name}")
    first = quantize_model(tiny, chosen)
    tiny.restore()
    assert quantize_model(tiny, chosen) == first
    fmt = chosen.rules["linear"].weight
    bits = sum(quantize(target.weight, fmt).total_bits for target in linears(tiny))
    assert first.report.bits_per_weight == bits / first.report.num_quantized
    assert first.report.bits_per_weight >= fmt.element.bits


def test_there_are_real_recipes_of_every_backend() -> None:
    prefixes = {re.sub(r"^(torchao|bnb)_.*|.*_(real)$", r"\1\2", name) for name in REAL}
    assert prefixes == {"torchao", "bnb", "real"}
    assert {"int8_row_real", "fp8_g64_real", "w8a8_real", "w8a8_static_real"} <= set(REAL)


@pytest.mark.parametrize("name", REAL)
def test_real_recipe_is_put_in_place_and_taken_out_or_refused_with_a_reason(
    composed: Compose, tiny: LoadedModel, name: str
) -> None:
    chosen = recipe(composed, f"+quant={name}")
    assert chosen.backend.kind == "real"
    before = dict(tiny.module.named_modules(remove_duplicate=False))
    values = {key: value.clone() for key, value in tiny.module.state_dict().items()}
    try:
        report = quantize_model(tiny, chosen).report
    except UnsupportedRecipe:
        pass  # a test of each backend reads its reasons
    else:
        assert (report.kind, report.backend) == ("real", chosen.backend.name)
        assert report.num_quantized == 36864
        assert report.stored_bytes is not None
        for layer in report.layers:
            assert layer.kernel, layer.name
            # Real bytes, with room for tables and padding: never those of a float weight.
            assert layer.stored_bytes is not None
            assert layer.stored_bytes < 4 * math.prod(layer.shape), layer.name
        with torch.inference_mode():
            assert tiny.module(torch.arange(24)[None]).logits.isfinite().all()
        audit_after(tiny)
    finally:
        tiny.restore()
    after = dict(tiny.module.named_modules(remove_duplicate=False))
    assert all(after[path] is module for path, module in before.items())
    assert all(torch.equal(value, values[k]) for k, value in tiny.module.state_dict().items())


@pytest.mark.parametrize("name", [name for name in REAL if name.endswith("_real")])
def test_real_recipe_is_its_namesake_on_another_backend(composed: Compose, name: str) -> None:
    real, fake = (recipe(composed, f"+quant={n}") for n in (name, name.removesuffix("_real")))
    assert real.name == f"{fake.name}_real"
    assert replace(real, name=fake.name, backend=fake.backend) == fake
