"""What a recipe does to the tiny model, with numbers counted by hand."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from harness.backends.fake import FakeBackend
from harness.backends.layer import LayerRule, QuantizedLayer
from harness.engines.local.split_model import split
from harness.errors import AuditError, ConfigError, UnsupportedRecipe
from harness.formats.integer import Integer
from harness.formats.minifloat import Minifloat
from harness.models.loaded import LoadedModel
from harness.models.sources.tiny import TinyModel
from harness.models.targets.targets import Target, find_targets
from harness.quant.granularity import Granularity
from harness.quant.primitives import quantize as quantize_tensor
from harness.quant.schemes.block_scaled import BlockScaled
from harness.recipe import QuantRecipe, audit_after, quantize

CPU = torch.device("cpu")
IDS = torch.arange(50)[None]
EMBEDDING = 261 * 48
LAYER = 2 * 48 * 48 + 2 * 24 * 48 + 3 * 48 * 80
"""Weights of the seven matrices of a layer."""
ROWS = 48 + 24 + 24 + 48 + 80 + 80 + 48
TOTAL = EMBEDDING + 2 * (LAYER + 2 * 48) + 48
"""Two norms a layer and one at the end."""


def fmt(bits: int = 8, block: tuple[int, ...] = (1, -1), tail: str = "short") -> BlockScaled:
    return BlockScaled(element=Integer(bits=bits), granularity=Granularity(block=block, tail=tail))


def recipe(**changes: object) -> QuantRecipe:
    """Return INT8 a row over every linear layer of the decoder, with changes."""
    rules = {"linear": LayerRule(match="*", weight=fmt())}
    return QuantRecipe(**{"name": "test", "rules": rules} | changes)


def logits(loaded: LoadedModel) -> torch.Tensor:
    with torch.inference_mode():
        return loaded.module(IDS).logits


def test_counts_of_int8_row(tiny: LoadedModel) -> None:
    report = quantize(tiny, recipe()).report
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
    report = quantize(tiny, recipe()).report
    layer = next(each for each in report.layers if each.name.endswith("0.self_attn.k_proj"))
    rounded = tiny.module.model.layers[0].self_attn.k_proj.weight.detach().double()
    assert (layer.rule, layer.format, layer.shape) == ("linear", "int8_row", (24, 48))
    assert layer.bits_per_weight == 8 + 32 / 48
    assert layer.rel_error == pytest.approx(float((weight - rounded).norm() / weight.norm()))
    assert 0 < layer.rel_error < 0.01
    assert not layer.short_tail


def test_weights_in_place_are_the_dequantized_ones(tiny: LoadedModel) -> None:
    fp8 = Minifloat(exponent_bits=4, mantissa_bits=3, specials="nan")
    for element in (Integer(bits=8), fp8):
        form = BlockScaled(element=element, granularity=Granularity(block=(1, 32)))
        before = {t.name: t.weight.detach().clone() for t in find_targets(tiny.module)}
        quantize(tiny, recipe(rules={"linear": LayerRule(match="*", weight=form)}))
        for target in find_targets(tiny.module):
            kept = target.alias is not None
            expected = before[target.name]
            expected = expected if kept else quantize_tensor(expected, form).dequantize()
            assert torch.equal(target.weight, expected), target.name
        tiny.restore()


def test_norms_and_embeddings_keep_their_objects(tiny: LoadedModel) -> None:
    before = dict(tiny.module.named_parameters())
    quantize(tiny, recipe())
    for name, parameter in tiny.module.named_parameters():
        assert (parameter is before[name]) is not name.endswith("proj.weight")


def test_restore_brings_back_the_same_logits_bit_for_bit(tiny: LoadedModel) -> None:
    before = logits(tiny)
    quantize(tiny, recipe(skip=()))
    assert not torch.equal(logits(tiny), before)
    tiny.restore()
    assert torch.equal(logits(tiny), before)


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


def test_skipped_weights_are_listed_with_their_reason(tiny: LoadedModel) -> None:
    skipped = {each.name: each.reason for each in quantize(tiny, recipe()).report.skipped}
    assert skipped == {
        "model.embed_tokens": "quant.skip has embed_tokens",
        "lm_head": "quant.skip has lm_head; tied to model.embed_tokens",
    }


def test_weights_that_no_rule_matches_are_listed(tiny: LoadedModel) -> None:
    rules = {"mlp": LayerRule(match="*.mlp.*", weight=fmt())}
    report = quantize(tiny, recipe(rules=rules)).report
    unmatched = [each.name for each in report.skipped if each.reason == "no rule matches"]
    assert len(unmatched) == 8
    assert all("self_attn" in name for name in unmatched)
    assert report.num_quantized == 6 * 48 * 80


def test_first_rule_that_matches_decides(tiny: LoadedModel) -> None:
    rules = {
        "down": LayerRule(match="*.down_proj", weight=fmt(bits=4)),
        "rest": LayerRule(match="*", weight=fmt()),
    }
    report = quantize(tiny, recipe(rules=rules)).report
    chosen = {each.name: (each.rule, each.format) for each in report.layers}
    assert chosen.pop("model.layers.0.mlp.down_proj") == ("down", "int4_row")
    assert chosen.pop("model.layers.1.mlp.down_proj") == ("down", "int4_row")
    assert set(chosen.values()) == {("rest", "int8_row")}
    assert report.formats == {"down": "int4_row", "rest": "int8_row"}


def test_without_skip_head_and_embedding_are_quantized_apart(tiny: LoadedModel) -> None:
    weight = tiny.module.lm_head.weight.detach().clone()
    done = quantize(tiny, recipe(skip=()))
    head, embedding = tiny.module.lm_head.weight, tiny.module.model.embed_tokens.weight
    assert head is not embedding
    for parameter in (head, embedding):
        assert torch.equal(parameter, quantize_tensor(weight, fmt()).dequantize())
    quantized = 2 * LAYER + 2 * EMBEDDING
    assert done.report.num_quantized == quantized
    assert done.report.coverage == quantized / (TOTAL + EMBEDDING)
    assert done.report.skipped == ()
    assert any("lm_head was tied to model.embed_tokens" in text for text in done.warnings)
    assert any(f"adds {EMBEDDING} parameters" in text for text in done.warnings)


@pytest.mark.parametrize(
    ("skip", "quantized"), [(("embed_tokens",), "lm_head"), (("lm_head",), "model.embed_tokens")]
)
def test_one_side_of_a_tie_is_quantized_alone(
    tiny: LoadedModel, skip: tuple[str, ...], quantized: str
) -> None:
    weight = tiny.module.lm_head.weight
    report = quantize(tiny, recipe(skip=skip)).report
    sides = {"lm_head": tiny.module.lm_head, "model.embed_tokens": tiny.module.model.embed_tokens}
    changed = sides.pop(quantized)
    assert changed.weight is not weight
    assert [side.weight is weight for side in sides.values()] == [True]
    assert report.coverage == (2 * LAYER + EMBEDDING) / (TOTAL + EMBEDDING)


def test_skip_pattern_that_matches_nothing_is_refused(tiny: LoadedModel) -> None:
    with pytest.raises(ConfigError, match=r"got 'lm_haed', which matches none of: model\.embed"):
        quantize(tiny, recipe(skip=("lm_haed",)))


def test_rule_that_matches_nothing_is_refused(tiny: LoadedModel) -> None:
    rules = {"experts": LayerRule(match="*.experts.*", weight=fmt())}
    with pytest.raises(ConfigError, match=r"quant\.rules\.experts\.match must match"):
        quantize(tiny, recipe(rules=rules))


def test_rule_that_an_earlier_one_shadows_is_refused(tiny: LoadedModel) -> None:
    rules = {
        "all": LayerRule(match="*", weight=fmt()),
        "mlp": LayerRule(match="*.mlp.*", weight=fmt(bits=4)),
    }
    with pytest.raises(ConfigError, match=r"quant\.rules\.mlp\.match"):
        quantize(tiny, recipe(rules=rules))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_weight_that_is_not_finite_is_refused(bad: float) -> None:
    loaded = TinyModel().load(CPU)
    loaded.module.model.layers[1].mlp.up_proj.weight.data[0, 0] = bad
    with pytest.raises(AuditError, match=r"NaN or infinity in model\.layers\.1\.mlp\.up_proj"):
        quantize(loaded, recipe())


def test_a_weight_of_zeros_stays_zero_without_an_error() -> None:
    loaded = TinyModel().load(CPU)
    weight = loaded.module.model.layers[1].mlp.up_proj.weight
    weight.data.zero_()
    layers = {layer.name: layer for layer in quantize(loaded, recipe()).report.layers}
    assert layers["model.layers.1.mlp.up_proj"].rel_error == 0.0
    assert loaded.module.model.layers[1].mlp.up_proj.weight.eq(0).all()


@dataclass(frozen=True, kw_only=True, slots=True)
class Idle(FakeBackend):
    """Says that it did its work, and does nothing."""

    def apply(self, loaded: LoadedModel, target: Target, layer: QuantizedLayer) -> None:
        """Do nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Unable(FakeBackend):
    """Supports nothing."""

    def supports(self, rules: object, device: torch.device) -> str | None:
        """Refuse."""
        return "no kernel"


def test_backend_that_does_nothing_is_caught(tiny: LoadedModel) -> None:
    with pytest.raises(AuditError, match=r"must be in format int8_row, got: the weight in place"):
        quantize(tiny, recipe(backend=Idle()))


def test_backend_that_cannot_is_named_before_anything_changes(tiny: LoadedModel) -> None:
    with pytest.raises(
        UnsupportedRecipe, match="recipe test must be one that fake runs on cpu, but no kernel"
    ):
        quantize(tiny, recipe(backend=Unable()))
    assert not tiny.swaps


def test_audit_after_finds_a_replaced_weight(tiny: LoadedModel) -> None:
    quantize(tiny, recipe())
    audit_after(tiny)
    owner = tiny.module.model.layers[0].mlp.up_proj
    owner.weight = torch.nn.Parameter(owner.weight.clone(), requires_grad=False)
    with pytest.raises(AuditError, match="got 1 of them replaced"):
        audit_after(tiny)


def test_refused_tail_names_the_layer(tiny: LoadedModel) -> None:
    rules = {"linear": LayerRule(match="*", weight=fmt(block=(1, 64), tail="error"))}
    with pytest.raises(UnsupportedRecipe, match=r"layer model\.layers\.0\.self_attn\.q_proj"):
        quantize(tiny, recipe(rules=rules))


def test_short_tails_are_warned_of_by_format_length_and_layer(tiny: LoadedModel) -> None:
    rules = {"linear": LayerRule(match="*", weight=fmt(block=(1, 32)))}
    done = quantize(tiny, recipe(rules=rules))
    assert all(layer.short_tail for layer in done.report.layers)
    assert done.warnings[0].startswith("int8_g32: rows of 48 end with a short group in 12 layers: ")
    assert done.warnings[0].endswith("model.layers.0.mlp.gate_proj, ..."), "five names tell which"
    assert done.warnings[1] == (
        "int8_g32: rows of 80 end with a short group in 2 layers: "
        "model.layers.0.mlp.down_proj, model.layers.1.mlp.down_proj"
    )
    # 48 = 32 + 16 has two groups, 80 = 32 + 32 + 16 has three.
    scales = 2 * ((ROWS - 48) * 2 + 48 * 3)
    assert done.report.bits_per_weight == (8 * 36864 + 32 * scales) / 36864


@pytest.mark.parametrize("size", [47, 79])
def test_a_short_group_of_one_element_is_a_tail(tiny: LoadedModel, size: int) -> None:
    done = quantize(tiny, recipe(rules={"all": LayerRule(match="*", weight=fmt(block=(1, size)))}))
    one = [layer for layer in done.report.layers if layer.shape[-1] == size + 1]
    assert one
    assert all(layer.short_tail for layer in one)
    (warning,) = [text for text in done.warnings if f"rows of {size + 1} end with" in text]
    assert f"in {len(one)} layers" in warning


def test_group_that_divides_every_row_gives_no_warning(tiny: LoadedModel) -> None:
    rules = {"linear": LayerRule(match="*", weight=fmt(block=(1, 16)))}
    assert quantize(tiny, recipe(rules=rules)).warnings == ()


@pytest.mark.parametrize("group_size", [0, -1])
def test_group_size_without_meaning_is_refused(group_size: int) -> None:
    with pytest.raises(ValueError, match="group_size must be >= 1"):
        QuantRecipe(group_size=group_size)


def test_error_halves_with_every_bit(tiny: LoadedModel) -> None:
    errors = []
    for bits in (4, 5, 6, 7, 8):
        rules = {"linear": LayerRule(match="*", weight=fmt(bits=bits))}
        report = quantize(tiny, recipe(rules=rules)).report
        errors.append(report.layers[0].rel_error)
        tiny.restore()
    ratios = [a / b for a, b in itertools.pairwise(errors)]
    # The step is amax / (2^(bits-1) - 1), so the ratio is a little above two.
    assert all(1.8 < ratio < 2.4 for ratio in ratios)


def with_inputs(*, bits: int = 8, match: str = "*", **changes: object) -> QuantRecipe:
    """Return INT8 a row for weights and some bits a token for inputs."""
    rules = {"linear": LayerRule(match=match, weight=fmt(), input=fmt(bits=bits))}
    return recipe(**{"rules": rules} | changes)


def by_hand(x: torch.Tensor, bits: int) -> torch.Tensor:
    """Round every row with a scale of its own."""
    most = 2 ** (bits - 1) - 1
    scale = x.abs().amax(-1, keepdim=True) / most
    return (x / scale).round() * scale


def hooked(loaded: LoadedModel) -> list[str]:
    return [name for name, module in loaded.module.named_modules() if module._forward_pre_hooks]


@pytest.mark.parametrize("bits", [4, 8])
def test_logits_are_those_of_a_model_rounded_by_hand(tiny: LoadedModel, bits: int) -> None:
    plain = TinyModel().load(CPU).module
    for name, module in plain.named_modules():
        if isinstance(module, nn.Linear) and name != "lm_head":
            module.weight.data = by_hand(module.weight.data, 8)
            module.register_forward_pre_hook(lambda _, args: (by_hand(args[0], bits),))
    quantize(tiny, with_inputs(bits=bits))
    with torch.inference_mode():
        assert torch.equal(logits(tiny), plain(IDS).logits)


def test_fewer_bits_of_the_inputs_err_more(tiny: LoadedModel) -> None:
    exact, errors = logits(tiny), []
    for chosen in (recipe(), with_inputs(), with_inputs(bits=6), with_inputs(bits=4)):
        quantize(tiny, chosen)
        errors.append(float((logits(tiny) - exact).square().mean()))
        tiny.restore()
    assert errors[0] > 0
    assert errors == sorted(set(errors))


def test_report_names_the_inputs_and_counts_weights_alone(tiny: LoadedModel) -> None:
    without = quantize(tiny, recipe()).report
    tiny.restore()
    report = quantize(tiny, with_inputs(bits=4)).report
    assert report.input_formats == {"linear": "int4_row"}
    assert without.input_formats == {}
    same = {"input_formats": {}, "compute": without.compute}
    assert report.model_copy(update=same) == without


def test_only_layers_of_a_rule_with_an_input_round_theirs(tiny: LoadedModel) -> None:
    rules = {
        "down": LayerRule(match="*.down_proj", weight=fmt(), input=fmt(bits=4)),
        "rest": LayerRule(match="*", weight=fmt(bits=4)),
    }
    report = quantize(tiny, recipe(rules=rules)).report
    assert report.input_formats == {"down": "int4_row"}
    assert hooked(tiny) == [f"model.layers.{i}.mlp.down_proj" for i in range(2)]


def test_restore_ends_the_rounding_of_inputs(tiny: LoadedModel) -> None:
    before = logits(tiny)
    quantize(tiny, with_inputs())
    assert len(hooked(tiny)) == 14
    tiny.restore()
    assert hooked(tiny) == []
    assert torch.equal(logits(tiny), before)


def test_input_of_a_quantized_head_is_rounded_where_scores_are_taken(tiny: LoadedModel) -> None:
    rules = {"head": LayerRule(match="lm_head", weight=fmt(), input=fmt(bits=4))}
    exact = tiny.module.lm_head.weight.detach().clone()
    quantize(tiny, recipe(rules=rules, skip=("embed_tokens",)))
    with split(tiny):
        hidden = tiny.module.model(IDS).last_hidden_state
        expected = nn.functional.linear(by_hand(hidden, 4), by_hand(exact, 8))
        assert torch.equal(tiny.module(IDS).logits, expected)


def test_inputs_of_an_embedding_are_refused(tiny: LoadedModel) -> None:
    before = dict(tiny.module.named_parameters())
    with pytest.raises(
        UnsupportedRecipe, match=r"rule linear .* for model\.embed_tokens; add it to"
    ):
        quantize(tiny, with_inputs(skip=("lm_head",)))
    tiny.restore()
    assert hooked(tiny) == []
    assert all(p is before[name] for name, p in tiny.module.named_parameters())


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightsOnly(FakeBackend):
    """Knows eight bits and nothing else."""

    def supports(self, rules: Sequence[LayerRule], device: torch.device) -> str | None:
        """Refuse other widths."""
        formats = [fmt for rule in rules for fmt in (rule.weight, rule.input) if fmt]
        other = [each.name for each in formats if each.element.bits != 8]
        return f"no kernel for {other[0]}" if other else None


def test_backend_is_asked_about_inputs_too(tiny: LoadedModel) -> None:
    quantize(tiny, with_inputs(backend=WeightsOnly()))
    tiny.restore()
    with pytest.raises(UnsupportedRecipe, match="no kernel for int4_row"):
        quantize(tiny, with_inputs(bits=4, backend=WeightsOnly()))


def test_inputs_whose_scale_spans_tokens_are_warned_of(tiny: LoadedModel) -> None:
    whole = BlockScaled(element=Integer(bits=8), granularity=Granularity(block=(-1, -1)))
    rule = LayerRule(match="*", weight=whole, input=whole)
    found = quantize(tiny, QuantRecipe(name="whole", rules={"linear": rule}))
    assert any("share scales between tokens" in text for text in found.warnings)
    tiny.restore()
    tokens = LayerRule(
        match="*",
        weight=whole,
        input=BlockScaled(element=Integer(bits=8), granularity=Granularity(block=(1, -1))),
    )
    assert not quantize(tiny, QuantRecipe(name="row", rules={"linear": tokens})).warnings
