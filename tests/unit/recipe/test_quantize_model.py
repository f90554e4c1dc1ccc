"""What a recipe does to the weights of the tiny model, with numbers counted by hand."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from recipe_builders import E4M3, INT8, blocks, int8_row, int8_row_recipe
from recipe_models import logits

from harness.backends.base import Installed
from harness.backends.fake import FakeBackend
from harness.backends.layer import LayerRule, QuantizedLayer
from harness.errors import AuditError, UnsupportedRecipe
from harness.formats.integer import Integer
from harness.models.loaded import LoadedModel
from harness.models.sources.tiny import TinyModel
from harness.models.targets.targets import Target, find_targets
from harness.quant.granularity import Granularity
from harness.quant.primitives import quantize as quantize_tensor
from harness.quant.schemes.block_scaled import BlockScaled
from harness.recipe import QuantRecipe, audit_after, quantize

CPU = torch.device("cpu")
EMBEDDING = 261 * 48
LAYER = 2 * 48 * 48 + 2 * 24 * 48 + 3 * 48 * 80
"""Weights of the seven matrices of a layer."""
ROWS = 48 + 24 + 24 + 48 + 80 + 80 + 48
TOTAL = EMBEDDING + 2 * (LAYER + 2 * 48) + 48
"""Two norms a layer and one at the end."""


def test_counts_of_int8_row(tiny: LoadedModel) -> None:
    report = quantize(tiny, int8_row_recipe()).report
    bits = 2 * (8 * LAYER + 32 * ROWS)
    assert report.num_quantized == 2 * LAYER == 36864
    assert report.coverage == 36864 / TOTAL == 36864 / 49632
    assert report.bits_per_weight == bits / 36864
    assert report.model_bytes == 4 * (49632 - 36864) + bits // 8 == 90752
    assert report.kind == "fake-quant"
    assert report.formats == {"linear": "int8_row"}
    assert len(report.layers) == 14


def test_report_of_a_layer(tiny: LoadedModel) -> None:
    weight = tiny.module.model.layers[0].self_attn.k_proj.weight.detach().double()
    report = quantize(tiny, int8_row_recipe()).report
    layer = next(each for each in report.layers if each.name.endswith("0.self_attn.k_proj"))
    rounded = tiny.module.model.layers[0].self_attn.k_proj.weight.detach().double()
    assert (layer.rule, layer.format, layer.shape) == ("linear", "int8_row", (24, 48))
    assert layer.bits_per_weight == 8 + 32 / 48
    assert layer.rel_error == pytest.approx(float((weight - rounded).norm() / weight.norm()))
    assert 0 < layer.rel_error < 0.01
    assert not layer.short_tail


def test_weights_in_place_are_the_dequantized_ones(tiny: LoadedModel) -> None:
    for element in (INT8, E4M3):
        form = blocks(element, 1, 32)
        before = {t.name: t.weight.detach().clone() for t in find_targets(tiny.module)}
        quantize(tiny, int8_row_recipe(rules={"linear": LayerRule(match="*", weight=form)}))
        for target in find_targets(tiny.module):
            kept = target.alias is not None
            expected = before[target.name]
            expected = expected if kept else quantize_tensor(expected, form).dequantize()
            assert torch.equal(target.weight, expected), target.name
        tiny.restore()


def test_norms_and_embeddings_keep_their_objects(tiny: LoadedModel) -> None:
    before = dict(tiny.module.named_parameters())
    quantize(tiny, int8_row_recipe())
    for name, parameter in tiny.module.named_parameters():
        assert (parameter is before[name]) is not name.endswith("proj.weight")


def test_restore_brings_back_the_same_logits_bit_for_bit(tiny: LoadedModel) -> None:
    before = logits(tiny.module)
    quantize(tiny, int8_row_recipe(skip=()))
    assert not torch.equal(logits(tiny.module), before)
    tiny.restore()
    assert torch.equal(logits(tiny.module), before)


def test_baseline_changes_nothing(tiny: LoadedModel) -> None:
    before = dict(tiny.module.named_parameters())
    done = quantize(tiny, QuantRecipe())
    assert all(p is before[name] for name, p in tiny.module.named_parameters())
    assert done.report.kind == "none"
    assert done.report.num_quantized == 0
    assert done.report.coverage == 0
    assert done.report.bits_per_weight == 32
    assert done.report.model_bytes == 4 * TOTAL
    assert len(done.report.skipped) == 16
    assert done.warnings == ()


def test_baseline_in_bfloat16_has_16_bits() -> None:
    report = quantize(TinyModel(dtype="bfloat16").load(CPU), QuantRecipe()).report
    assert report.bits_per_weight == 16
    assert report.model_bytes == 2 * TOTAL


def test_weight_that_is_not_finite_is_an_error() -> None:
    loaded = TinyModel().load(CPU)
    for bad in (math.nan, math.inf):
        loaded.module.model.layers[1].mlp.up_proj.weight.data[0, 0] = bad
        with pytest.raises(AuditError, match=r"NaN or infinity in model\.layers\.1\.mlp\.up_proj"):
            quantize(loaded, int8_row_recipe())
        loaded.restore()


def test_a_weight_of_zeros_stays_zero_without_an_error() -> None:
    loaded = TinyModel().load(CPU)
    weight = loaded.module.model.layers[1].mlp.up_proj.weight
    weight.data.zero_()
    layers = {layer.name: layer for layer in quantize(loaded, int8_row_recipe()).report.layers}
    assert layers["model.layers.1.mlp.up_proj"].rel_error == 0.0
    assert loaded.module.model.layers[1].mlp.up_proj.weight.eq(0).all()


@dataclass(frozen=True, kw_only=True, slots=True)
class Watching(FakeBackend):
    """Looks at what it is given."""

    def apply(self, loaded: LoadedModel, target: Target, layer: QuantizedLayer) -> None:
        assert layer.values is not None
        assert torch.equal(layer.values, layer.weight.dequantize())
        FakeBackend.apply(self, loaded, target, layer)

    def inspect(self, loaded: LoadedModel, target: Target, layer: QuantizedLayer) -> Installed:
        assert layer.values is None, "an audit must decode the codes itself"
        return FakeBackend.inspect(self, loaded, target, layer)


def test_values_of_a_weight_go_to_the_backend_and_are_not_kept(tiny: LoadedModel) -> None:
    assert len(quantize(tiny, int8_row_recipe(backend=Watching())).report.layers) == 14


@dataclass(frozen=True, kw_only=True, slots=True)
class Idle(FakeBackend):
    """Says that it did its work, and does nothing."""

    def apply(self, loaded: LoadedModel, target: Target, layer: QuantizedLayer) -> None:
        """Do nothing."""


def test_backend_that_does_nothing_is_caught(tiny: LoadedModel) -> None:
    with pytest.raises(AuditError, match=r"must be in format int8_row, got: the weight in place"):
        quantize(tiny, int8_row_recipe(backend=Idle()))


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightsOnly(FakeBackend):
    """Knows eight bits and nothing else."""

    def supports(self, rules: Sequence[LayerRule], device: torch.device) -> str | None:
        """Refuse other widths."""
        formats = [fmt for rule in rules for fmt in (rule.weight, rule.input) if fmt]
        other = [each.name for each in formats if each.element.bits != 8]
        return f"no kernel for {other[0]}" if other else None


def test_backend_is_asked_about_activations_too(tiny: LoadedModel) -> None:
    def both(activation: BlockScaled) -> QuantRecipe:
        rules = {"linear": LayerRule(match="*", weight=int8_row(), input=activation)}
        return int8_row_recipe(rules=rules, backend=WeightsOnly())

    quantize(tiny, both(int8_row()))
    tiny.restore()
    with pytest.raises(UnsupportedRecipe, match="no kernel for int4_row"):
        quantize(tiny, both(blocks(Integer(bits=4))))


@dataclass(frozen=True, kw_only=True, slots=True)
class Unable(FakeBackend):
    """Supports nothing."""

    def supports(self, rules: object, device: torch.device) -> str | None:
        """Refuse."""
        return "no kernel"


def test_backend_that_cannot_is_named_before_anything_changes(tiny: LoadedModel) -> None:
    with pytest.raises(
        UnsupportedRecipe, match="recipe int8_row must be one that fake runs on cpu, but no kernel"
    ):
        quantize(tiny, int8_row_recipe(backend=Unable()))
    assert not tiny.swaps


def test_audit_after_finds_a_replaced_weight(tiny: LoadedModel) -> None:
    quantize(tiny, int8_row_recipe())
    audit_after(tiny)
    owner = tiny.module.model.layers[0].mlp.up_proj
    owner.weight = torch.nn.Parameter(owner.weight.clone(), requires_grad=False)
    with pytest.raises(AuditError, match="got 1 of them replaced"):
        audit_after(tiny)


def test_refused_tail_names_the_layer(tiny: LoadedModel) -> None:
    strict = BlockScaled(element=INT8, granularity=Granularity(block=(1, 64), tail="error"))
    rules = {"linear": LayerRule(match="*", weight=strict)}
    with pytest.raises(UnsupportedRecipe, match=r"layer model\.layers\.0\.self_attn\.q_proj"):
        quantize(tiny, int8_row_recipe(rules=rules))


def test_error_halves_with_every_bit(tiny: LoadedModel) -> None:
    errors = []
    for bits in (4, 5, 6, 7, 8):
        rules = {"linear": LayerRule(match="*", weight=blocks(Integer(bits=bits)))}
        report = quantize(tiny, int8_row_recipe(rules=rules)).report
        errors.append(report.layers[0].rel_error)
        tiny.restore()
    ratios = [a / b for a, b in itertools.pairwise(errors)]
    # The step is amax / (2^(bits-1) - 1), so the ratio is a little above two.
    assert all(1.8 < ratio < 2.4 for ratio in ratios)
