"""Every recipe in conf/ composes, builds and does to the tiny model what its file says."""

import math
import re
from dataclasses import replace

import pytest
import torch
from recipe_builders import conf_recipe
from repository import ROOT
from torch import nn

from harness.backends.torchao.backend import TorchaoBackend
from harness.errors import ConfigError, UnsupportedRecipe
from harness.models.loaded import LoadedModel
from harness.models.targets.targets import Target, find_targets
from harness.quant.primitives import fake_quantize, quantize
from harness.recipe import QuantRecipe, audit_after
from harness.recipe import quantize as quantize_model

CONF = ROOT / "conf" / "quant"
TEXTS = {file.stem: file.read_text("utf-8") for file in sorted(CONF.glob("*.yaml"))}
"""Recipes; what they share lies in folders beside them."""
REAL = [name for name in TEXTS if re.search(r"^(torchao|bnb)_|_real$", name)]
"""Recipes of real backends."""
NAMES = [name for name in TEXTS if name not in REAL]
QUANTIZING = [name for name in NAMES if name != "none"]
SIZED = [name for name in NAMES if re.search(r"_g\d+$", name)]
GROUPED = [name for name in NAMES if "\ngroup_size:" in TEXTS[name]]
WITH_ACTIVATIONS = [name for name in NAMES if "rules.linear.input" in TEXTS[name]]
DYNAMIC = [name for name in WITH_ACTIVATIONS if "static" not in name]


def test_there_are_recipes() -> None:
    assert {"none", "int8_row", "fp8_tensor", "int8_group", "mxfp4", "hif4"} <= set(NAMES)
    assert len(SIZED) >= 8
    assert {"int8_group", "mxfp8", "nf4_b64"} <= set(GROUPED)
    assert {"w8a8", "w4a4_mxfp4"} <= set(WITH_ACTIVATIONS)
    prefixes = {re.sub(r"^(torchao|bnb)_.*|.*_(real)$", r"\1\2", name) for name in REAL}
    assert prefixes == {"torchao", "bnb", "real"}
    assert {"int8_row_real", "fp8_g64_real", "w8a8_real", "w8a8_static_real"} <= set(REAL)


# Split in two, for test runs on several cores.
@pytest.mark.parametrize("half", [0, 1])
def test_weights_are_those_of_the_format_and_the_float_ones_come_back(
    tiny: LoadedModel, half: int
) -> None:
    floats = {
        key: (value, value.clone()) for key, value in tiny.module.state_dict(keep_vars=True).items()
    }
    weights = {t.name: t.weight.detach().clone() for t in find_targets(tiny.module)}
    for name in QUANTIZING[half::2]:
        chosen = conf_recipe(name)
        fmt = chosen.rules["linear"].weight
        stored = {target.name: quantize(target.weight, fmt) for target in linears(tiny)}
        done = quantize_model(tiny, chosen)
        report = done.report
        check_in_place(tiny, name, weights, {n: each.dequantize() for n, each in stored.items()})
        assert len(stored) == len(report.layers), name
        assert report.num_quantized == 36864, name
        assert {layer.format for layer in report.layers} == {fmt.name}
        bits = sum(each.total_bits for each in stored.values())
        assert report.bits_per_weight == bits / report.num_quantized, name
        assert report.bits_per_weight >= fmt.element.bits, name
        assert bool(report.input_formats) is (name in WITH_ACTIVATIONS), name
        assert num_hooks(tiny) == (len(report.layers) if name in WITH_ACTIVATIONS else 0), name
        tiny.restore()
        check_floats(tiny, name, floats)
        assert quantize_model(tiny, chosen) == done, f"{name} is not deterministic"
        tiny.restore()


def check_in_place(
    loaded: LoadedModel,
    name: str,
    before: dict[str, torch.Tensor],
    rounded: dict[str, torch.Tensor],
) -> None:
    """Check that exactly the chosen weights are replaced, by the values of the format."""
    changed = 0
    for target in find_targets(loaded.module):
        expected = rounded.get(target.name, before[target.name])
        assert torch.equal(target.weight, expected), (name, target.name)
        changed += not torch.equal(target.weight, before[target.name])
    assert changed == len(rounded), name
    audit_after(loaded)


def check_floats(
    loaded: LoadedModel, name: str, floats: dict[str, tuple[torch.Tensor, torch.Tensor]]
) -> None:
    """Check that the very parameters of the unquantized model are back, without hooks."""
    after = loaded.module.state_dict(keep_vars=True)
    for key, (parameter, value) in floats.items():
        assert after[key] is parameter, (name, key)
        assert torch.equal(parameter, value), (name, key)
    assert num_hooks(loaded) == 0, name


def test_activations_are_rounded_at_every_linear_layer_until_restored(tiny: LoadedModel) -> None:
    generator = torch.Generator().manual_seed(0)
    for name in DYNAMIC:
        chosen = conf_recipe(name)
        fmt = chosen.rules["linear"].input
        assert fmt is not None
        report = quantize_model(tiny, chosen).report
        assert report.input_formats == {"linear": fmt.name}
        layers = [target.owner for target in linears(tiny)]
        assert len(layers) == len(report.layers)
        for layer in layers:
            assert len(layer._forward_pre_hooks) == 1, name
            # Two sequences of five tokens: they are one matrix to the format.
            x = torch.randn(2, 5, layer.in_features, generator=generator)
            rounded = fake_quantize(x.view(10, -1), fmt).view(x.shape)
            expected = nn.functional.linear(rounded, layer.weight, layer.bias)
            assert torch.equal(layer(x), expected), name
            assert not torch.equal(expected, nn.functional.linear(x, layer.weight, layer.bias))
        tiny.restore()
        assert num_hooks(tiny) == 0, name
        x = torch.randn(3, layers[0].in_features, generator=generator)
        plain = nn.functional.linear(x, layers[0].weight, layers[0].bias)
        assert torch.equal(layers[0](x), plain), name


def test_name_says_what_the_formats_are() -> None:
    assert conf_recipe("none") == QuantRecipe()
    for name in QUANTIZING:
        chosen = conf_recipe(name)
        size, rule = chosen.group_size, chosen.rules["linear"]
        names = {name, name.replace("group", f"g{size}"), f"{name}_g{size}", rule.weight.name}
        assert chosen.name in names
        assert chosen.skip == ("lm_head", "embed_tokens"), name
        if rule.input is not None:
            widths = re.match(r"w(\d+)a(\d+)", name)
            assert widths is not None, name
            bits = [rule.weight.element.bits, rule.input.element.bits]
            assert [int(w) for w in widths.groups()] == bits, name
            assert ("static" in name) is rule.static_input, name
            words = [word for word in name.split("_")[1:] if word != "static"]
            assert all(word in fmt.name for word in words for fmt in (rule.weight, rule.input))
            continue
        shown = rule.weight.name.replace("128x128", "block")
        # Each word of the name, such as int4, g64, asym or mse, is one of the format's name or
        # begins it.
        for word in chosen.name.split("_"):
            assert word in shown.split("_") or shown.startswith(word), (name, word)


def test_group_size_of_the_name_is_that_of_the_format() -> None:
    for name in SIZED:
        size, chosen = int(name.rsplit("_g", 1)[-1]), conf_recipe(name)
        assert chosen.rules["linear"].weight.granularity.block == (1, size), name
        assert chosen.group_size == size, name


def test_group_size_can_be_set() -> None:
    for name in sorted({*GROUPED} - {*SIZED}):
        chosen = conf_recipe(name, "quant.group_size=16")
        assert re.search(r"_[gb]16(_|$)", chosen.name), name
        assert chosen.rules["linear"].weight.granularity.block == (1, 16), name


def test_group_size_without_meaning_is_a_configuration_error() -> None:
    for size in ("0", "-3"):
        with pytest.raises(ConfigError, match=r"group_size|block"):
            conf_recipe("int8_group", f"quant.group_size={size}")


def test_no_recipe_is_the_baseline() -> None:
    assert conf_recipe(None) == QuantRecipe()


def test_real_recipe_is_put_in_place_and_taken_out_or_unsupported_with_a_reason(
    tiny: LoadedModel,
) -> None:
    before = dict(tiny.module.named_modules(remove_duplicate=False))
    values = {key: value.clone() for key, value in tiny.module.state_dict().items()}
    for name in REAL:
        chosen = conf_recipe(name)
        assert chosen.backend.kind == "real", name
        try:
            check_real(tiny, name, chosen)
        except UnsupportedRecipe:
            pass  # a test of each backend reads its reasons
        finally:
            tiny.restore()
        after = dict(tiny.module.named_modules(remove_duplicate=False))
        assert all(after[path] is module for path, module in before.items()), name
        held = tiny.module.state_dict().items()
        assert all(torch.equal(value, values[key]) for key, value in held), name


def check_real(loaded: LoadedModel, name: str, chosen: QuantRecipe) -> None:
    """Check the report and the matmuls of a real recipe."""
    report = quantize_model(loaded, chosen).report
    assert (report.kind, report.backend) == ("real", chosen.backend.name)
    assert report.num_quantized == 36864, name
    assert report.stored_bytes is not None
    for layer in report.layers:
        assert layer.kernel, (name, layer.name)
        # Real bytes, with room for tables and padding: never those of a float weight.
        assert layer.stored_bytes is not None
        assert layer.stored_bytes < 4 * math.prod(layer.shape), (name, layer.name)
    with torch.inference_mode():
        assert loaded.module(torch.arange(24)[None]).logits.isfinite().all(), name
    audit_after(loaded)


def test_real_recipe_is_its_namesake_on_another_backend() -> None:
    for name in REAL:
        if name.endswith("_real"):
            real, fake = conf_recipe(name), conf_recipe(name.removesuffix("_real"))
            assert real.name == f"{fake.name}_real"
            assert replace(real, name=fake.name, backend=fake.backend) == fake, name


@pytest.mark.usefixtures("exact_int_mm")
def test_every_recipe_runs_on_torchao_or_says_why_not() -> None:
    for name, text in TEXTS.items():
        rules = tuple(conf_recipe(name).rules.values())
        found = TorchaoBackend().supports(rules, torch.device("cpu"))
        assert found is None or "got" in found or "it has int8" in found, name
        if name.startswith("torchao_"):
            needs_gpu = "GPU of capability" in text
            # The FP8 recipe with SmoothQuant says it in that of which it is made.
            assert (found is None) == (not needs_gpu and name != "torchao_fp8_smooth"), name


def linears(loaded: LoadedModel) -> list[Target]:
    """Return the targets that every recipe takes: all but the head and the embedding."""
    return [
        target
        for target in find_targets(loaded.module)
        if isinstance(target.owner, nn.Linear) and not target.alias and "lm_head" not in target.name
    ]


def num_hooks(loaded: LoadedModel) -> int:
    return sum(len(module._forward_pre_hooks) for module in loaded.module.modules())
