"""Activations under a recipe: rounded where a weight is multiplied, until restored."""

import pytest
import torch
from recipe_builders import blocks, int8_row, int8_row_recipe
from recipe_models import IDS, logits
from torch import nn

from harness.backends.layer import LayerRule
from harness.engines.local.split_model import split
from harness.errors import UnsupportedRecipe
from harness.formats.integer import Integer
from harness.models.loaded import LoadedModel
from harness.models.sources.tiny import TinyModel
from harness.recipe import QuantRecipe, quantize

CPU = torch.device("cpu")


def test_logits_are_those_of_a_model_rounded_by_hand(tiny: LoadedModel) -> None:
    for bits in (4, 8):
        plain = TinyModel().load(CPU).module
        for name, module in plain.named_modules():
            if isinstance(module, nn.Linear) and name != "lm_head":
                module.weight.data = by_hand(module.weight.data, 8)
                module.register_forward_pre_hook(lambda _, args, b=bits: (by_hand(args[0], b),))
        quantize(tiny, with_activations(bits=bits))
        with torch.inference_mode():
            assert torch.equal(logits(tiny.module), plain(IDS).logits), bits
        tiny.restore()


def test_fewer_bits_of_the_activations_err_more(tiny: LoadedModel) -> None:
    exact, errors = logits(tiny.module), []
    for chosen in (
        int8_row_recipe(),
        with_activations(),
        with_activations(bits=6),
        with_activations(bits=4),
    ):
        quantize(tiny, chosen)
        errors.append(float((logits(tiny.module) - exact).square().mean()))
        tiny.restore()
    assert errors[0] > 0
    assert errors == sorted(set(errors))


def test_only_layers_of_a_rule_with_an_activation_round_theirs(tiny: LoadedModel) -> None:
    rules = {
        "down": LayerRule(match="*.down_proj", weight=int8_row(), input=blocks(Integer(bits=4))),
        "rest": LayerRule(match="*", weight=blocks(Integer(bits=4))),
    }
    report = quantize(tiny, int8_row_recipe(rules=rules)).report
    assert report.input_formats == {"down": "int4_row"}
    assert hooked(tiny) == [f"model.layers.{i}.mlp.down_proj" for i in range(2)]


def test_restore_ends_the_rounding_of_inputs(tiny: LoadedModel) -> None:
    before = logits(tiny.module)
    quantize(tiny, with_activations())
    assert len(hooked(tiny)) == 14
    tiny.restore()
    assert hooked(tiny) == []
    assert torch.equal(logits(tiny.module), before)


def test_input_of_a_quantized_head_is_rounded_where_scores_are_taken(tiny: LoadedModel) -> None:
    rules = {"head": LayerRule(match="lm_head", weight=int8_row(), input=blocks(Integer(bits=4)))}
    exact = tiny.module.lm_head.weight.detach().clone()
    quantize(tiny, int8_row_recipe(rules=rules, skip=("embed_tokens",)))
    with split(tiny):
        hidden = tiny.module.model(IDS).last_hidden_state
        expected = nn.functional.linear(by_hand(hidden, 4), by_hand(exact, 8))
        assert torch.equal(tiny.module(IDS).logits, expected)


def test_activations_of_an_embedding_are_unsupported(tiny: LoadedModel) -> None:
    before = dict(tiny.module.named_parameters())
    with pytest.raises(
        UnsupportedRecipe, match=r"rule linear .* for model\.embed_tokens; add it to"
    ):
        quantize(tiny, with_activations(skip=("lm_head",)))
    tiny.restore()
    assert hooked(tiny) == []
    assert all(p is before[name] for name, p in tiny.module.named_parameters())


def with_activations(*, bits: int = 8, match: str = "*", **changes: object) -> QuantRecipe:
    """Return INT8 per-channel weights and per-token activations of some bits."""
    rules = {"linear": LayerRule(match=match, weight=int8_row(), input=blocks(Integer(bits=bits)))}
    return int8_row_recipe(**{"rules": rules} | changes)


def by_hand(x: torch.Tensor, bits: int) -> torch.Tensor:
    """Round every row with a scale of its own."""
    most = 2 ** (bits - 1) - 1
    scale = x.abs().amax(-1, keepdim=True) / most
    return (x / scale).round() * scale


def hooked(loaded: LoadedModel) -> list[str]:
    return [name for name, module in loaded.module.named_modules() if module._forward_pre_hooks]
