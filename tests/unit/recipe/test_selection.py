"""Which weights a recipe chooses, and why the others stay in float."""

import pytest
import torch
from recipe_builders import blocks, int8_row, int8_row_recipe
from recipe_models import FEW, LLAMA4, LOCAL, MIXTURE, SHARED, SIZES, Load, logits

from harness.backends.fake import FakeBackend
from harness.backends.layer import LayerRule
from harness.backends.scaled_mm.backend import ScaledMMBackend
from harness.errors import ConfigError, UnsupportedRecipe
from harness.formats.integer import Integer
from harness.models.loaded import LoadedModel
from harness.models.targets.targets import find_targets
from harness.quant.primitives import quantize as quantize_tensor
from harness.recipe import QuantRecipe, quantize

CPU = torch.device("cpu")
EMBEDDING = 261 * 48
LAYER = 2 * 48 * 48 + 2 * 24 * 48 + 3 * 48 * 80
"""Weights of the seven matrices of a layer."""
ROWS = 48 + 24 + 24 + 48 + 80 + 80 + 48
TOTAL = EMBEDDING + 2 * (LAYER + 2 * 48) + 48
"""Two norms a layer and one at the end."""


def test_skipped_weights_are_listed_with_their_reason(tiny: LoadedModel) -> None:
    skipped = {each.name: each.reason for each in quantize(tiny, int8_row_recipe()).report.skipped}
    assert skipped == {
        "model.embed_tokens": "quant.skip has embed_tokens",
        "lm_head": "quant.skip has lm_head; tied to model.embed_tokens",
    }


def test_weights_that_no_rule_matches_are_listed(tiny: LoadedModel) -> None:
    rules = {"mlp": LayerRule(match="*.mlp.*", weight=int8_row())}
    report = quantize(tiny, int8_row_recipe(rules=rules)).report
    unmatched = [each.name for each in report.skipped if each.reason == "no rule matches"]
    assert len(unmatched) == 8
    assert all("self_attn" in name for name in unmatched)
    assert report.num_quantized == 6 * 48 * 80


def test_first_rule_that_matches_decides(tiny: LoadedModel) -> None:
    rules = {
        "down": LayerRule(match="*.down_proj", weight=blocks(Integer(bits=4))),
        "rest": LayerRule(match="*", weight=int8_row()),
    }
    report = quantize(tiny, int8_row_recipe(rules=rules)).report
    chosen = {each.name: (each.rule, each.format) for each in report.layers}
    assert chosen.pop("model.layers.0.mlp.down_proj") == ("down", "int4_row")
    assert chosen.pop("model.layers.1.mlp.down_proj") == ("down", "int4_row")
    assert set(chosen.values()) == {("rest", "int8_row")}
    assert report.formats == {"down": "int4_row", "rest": "int8_row"}


def test_without_skip_head_and_embedding_are_quantized_apart(tiny: LoadedModel) -> None:
    weight = tiny.module.lm_head.weight.detach().clone()
    done = quantize(tiny, int8_row_recipe(skip=()))
    head, embedding = tiny.module.lm_head.weight, tiny.module.model.embed_tokens.weight
    assert head is not embedding
    for parameter in (head, embedding):
        assert torch.equal(parameter, quantize_tensor(weight, int8_row()).dequantize())
    quantized = 2 * LAYER + 2 * EMBEDDING
    assert done.report.num_quantized == quantized
    assert done.report.coverage == quantized / (TOTAL + EMBEDDING)
    assert done.report.skipped == ()
    assert any("lm_head was tied to model.embed_tokens" in text for text in done.warnings)
    assert any(f"adds {EMBEDDING} parameters" in text for text in done.warnings)


def test_one_side_of_a_tie_is_quantized_alone(tiny: LoadedModel) -> None:
    for skip, quantized in (("embed_tokens", "lm_head"), ("lm_head", "model.embed_tokens")):
        weight = tiny.module.lm_head.weight
        report = quantize(tiny, int8_row_recipe(skip=(skip,))).report
        sides = {
            "lm_head": tiny.module.lm_head,
            "model.embed_tokens": tiny.module.model.embed_tokens,
        }
        changed = sides.pop(quantized)
        assert changed.weight is not weight
        assert [side.weight is weight for side in sides.values()] == [True], quantized
        assert report.coverage == (2 * LAYER + EMBEDDING) / (TOTAL + EMBEDDING)
        tiny.restore()


def test_pattern_that_matches_nothing_is_an_error(tiny: LoadedModel) -> None:
    with pytest.raises(ConfigError, match=r"got 'lm_haed', which matches none of: model\.embed"):
        quantize(tiny, int8_row_recipe(skip=("lm_haed",)))
    rules = {"experts": LayerRule(match="*.experts.*", weight=int8_row())}
    with pytest.raises(ConfigError, match=r"quant\.rules\.experts\.match must match"):
        quantize(tiny, int8_row_recipe(rules=rules))
    shadowed = {
        "all": LayerRule(match="*", weight=int8_row()),
        "mlp": LayerRule(match="*.mlp.*", weight=blocks(Integer(bits=4))),
    }
    with pytest.raises(ConfigError, match=r"quant\.rules\.mlp\.match"):
        quantize(tiny, int8_row_recipe(rules=shadowed))


def with_activations(**changes: object) -> QuantRecipe:
    rules = {"linear": LayerRule(match="*", weight=int8_row(), input=int8_row())}
    return int8_row_recipe(rules=rules, **changes)


@pytest.mark.parametrize("kind", ["Mamba", "FalconMamba"])
def test_a_layer_that_is_never_called_has_neither_rounded_activations_nor_a_kernel(
    load: Load, kind: str
) -> None:
    loaded = load(kind, **FEW, state_size=8)
    names = {f"backbone.layers.{i}.mixer.dt_proj" for i in range(2)}
    weight_only = quantize(loaded, int8_row_recipe())
    assert names <= {layer.name for layer in weight_only.report.layers}
    loaded.restore()
    for each in (with_activations(), int8_row_recipe(backend=ScaledMMBackend())):
        done = quantize(loaded, each)
        skipped = {s.name: s.reason for s in done.report.skipped}
        assert all("read by another module" in skipped[name] for name in names)
        assert any(all(name in text for name in names) for text in done.warnings)
        assert not names & {layer.name for layer in done.report.layers}
        loaded.restore()


def test_the_fake_form_of_a_real_recipe_leaves_out_the_same_layers(load: Load) -> None:
    loaded = load("Mamba", **FEW, state_size=8)
    real = int8_row_recipe(backend=ScaledMMBackend())
    of_real = quantize(loaded, real).report
    exact = logits(loaded.module)
    loaded.restore()
    of_fake = quantize(loaded, real, backend=FakeBackend()).report
    assert {layer.name for layer in of_fake.layers} == {layer.name for layer in of_real.layers}
    # Sums of integers against sums of float32: their order is all that differs.
    assert torch.allclose(logits(loaded.module), exact, rtol=1e-4, atol=1e-4)


def test_a_recipe_for_nothing_but_such_layers_is_unsupported(load: Load) -> None:
    loaded = load("Mamba", **FEW, state_size=8)
    rules = {"linear": LayerRule(match="*.dt_proj", weight=int8_row(), input=int8_row())}
    with pytest.raises(UnsupportedRecipe, match="dt_proj"):
        quantize(loaded, int8_row_recipe(rules=rules))


ROUTED = {
    "qwen2_moe": (
        "Qwen2Moe",
        SIZES | MIXTURE | SHARED,
        {"mlp.gate.weight", "mlp.shared_expert_gate"},
    ),
    "mixtral": ("Mixtral", SIZES | LOCAL, {"mlp.gate.weight"}),
    "gpt_oss": ("GptOss", SIZES | LOCAL | {"head_dim": 16}, {"mlp.router.weight"}),
    "llama4": (
        "Llama4Text",
        SIZES | LLAMA4 | {"intermediate_size_mlp": 40},
        {"feed_forward.router"},
    ),
    "phimoe": ("Phimoe", SIZES | LOCAL, {"mlp.router"}),
    "jetmoe": (
        "JetMoe",
        {k: v for k, v in SIZES.items() if k != "num_attention_heads"}
        | LOCAL
        | {"kv_channels": 16},
        {"mlp.router.layer", "self_attention.experts.router.layer"},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "options", "routers"), ROUTED.values(), ids=ROUTED)
def test_routers_and_gates_of_shared_experts_stay_in_float_unless_skip_says_otherwise(
    load: Load, kind: str, options: dict[str, object], routers: set[str]
) -> None:
    loaded = load(kind, **options)
    expected = {f"model.layers.{i}.{name}" for i in range(2) for name in routers}
    report = quantize(loaded, int8_row_recipe()).report
    skipped = {s.name for s in report.skipped if s.reason.startswith("a router")}
    assert skipped == expected
    loaded.restore()
    opened = int8_row_recipe(skip=("lm_head", "embed_tokens", "!router"))
    named = {layer.name for layer in quantize(loaded, opened).report.layers}
    assert expected <= named
    loaded.restore()
    one = next(iter(sorted(expected)))
    opened = int8_row_recipe(skip=("lm_head", "embed_tokens", f"!{one}"))
    assert expected & {layer.name for layer in quantize(loaded, opened).report.layers} == {one}


def test_skip_may_name_what_is_no_target_but_not_what_is_no_matrix(load: Load) -> None:
    loaded = load("Mamba", **FEW, state_size=8)
    kept = ("lm_head", "embed_tokens")
    assert quantize(loaded, int8_row_recipe(skip=(*kept, "*.conv1d"))).report.layers
    loaded.restore()
    with pytest.raises(ConfigError, match=r"quant\.skip must match .* got '\*\.norm'"):
        quantize(loaded, int8_row_recipe(skip=(*kept, "*.norm")))


def test_a_model_without_routers_has_none_to_open(load: Load) -> None:
    loaded = load("Llama", **SIZES)
    assert not [target for target in find_targets(loaded.module) if target.alias == "router"]
    with pytest.raises(ConfigError, match=r"quant\.skip must match .* got '!router'"):
        quantize(loaded, int8_row_recipe(skip=("lm_head", "!router")))
