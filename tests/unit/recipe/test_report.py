"""What a report says of quantized layers, and its warnings."""

import torch
from recipe_builders import INT8, blocks, int8_row, int8_row_recipe

from harness.backends.bitsandbytes.int8 import BitsandbytesInt8Backend
from harness.backends.layer import LayerRule
from harness.formats.integer import Integer
from harness.models.loaded import LoadedModel
from harness.recipe import QuantRecipe, quantize
from harness.recipe.report import _activation_warnings

CPU = torch.device("cpu")
EMBEDDING = 261 * 48
LAYER = 2 * 48 * 48 + 2 * 24 * 48 + 3 * 48 * 80
"""Weights of the seven matrices of a layer."""
ROWS = 48 + 24 + 24 + 48 + 80 + 80 + 48
TOTAL = EMBEDDING + 2 * (LAYER + 2 * 48) + 48
"""Two norms a layer and one at the end."""


def test_report_names_the_activations_and_counts_weights_alone(tiny: LoadedModel) -> None:
    without = quantize(tiny, int8_row_recipe()).report
    tiny.restore()
    report = quantize(tiny, with_activations(bits=4)).report
    assert report.input_formats == {"linear": "int4_row"}
    assert without.input_formats == {}
    same = {"input_formats": {}, "compute": without.compute}
    assert report.model_copy(update=same) == without


def test_short_tails_are_warned_of_by_format_length_and_layer(tiny: LoadedModel) -> None:
    rules = {"linear": LayerRule(match="*", weight=blocks(INT8, 1, 32))}
    done = quantize(tiny, int8_row_recipe(rules=rules))
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


def test_a_short_group_of_one_element_is_a_tail(tiny: LoadedModel) -> None:
    for size in (47, 79):
        rules = {"all": LayerRule(match="*", weight=blocks(INT8, 1, size))}
        done = quantize(tiny, int8_row_recipe(rules=rules))
        one = [layer for layer in done.report.layers if layer.shape[-1] == size + 1]
        assert one
        assert all(layer.short_tail for layer in one), size
        (warning,) = [text for text in done.warnings if f"rows of {size + 1} end with" in text]
        assert f"in {len(one)} layers" in warning
        tiny.restore()


def test_group_that_divides_every_row_gives_no_warning(tiny: LoadedModel) -> None:
    rules = {"linear": LayerRule(match="*", weight=blocks(INT8, 1, 16))}
    assert quantize(tiny, int8_row_recipe(rules=rules)).warnings == ()


def test_activations_whose_scale_spans_tokens_are_warned_of(tiny: LoadedModel) -> None:
    whole = blocks(INT8, -1)
    rule = LayerRule(match="*", weight=whole, input=whole)
    found = quantize(tiny, QuantRecipe(name="whole", rules={"linear": rule}))
    assert any("share scales between tokens" in text for text in found.warnings)
    tiny.restore()
    tokens = LayerRule(
        match="*",
        weight=whole,
        input=int8_row(),
    )
    assert not quantize(tiny, QuantRecipe(name="row", rules={"linear": tokens})).warnings


def test_backend_whose_layers_depend_on_the_batch_is_warned_of() -> None:
    # `test_result_depends_on_the_batch` of the backend shows that they do.
    for threshold, is_warned in ((6.0, True), (0.0, False)):
        backend = BitsandbytesInt8Backend(threshold=threshold)
        found = _activation_warnings(with_activations(backend=backend))
        assert any("results depend on how" in text for text in found) is is_warned


def with_activations(*, bits: int = 8, match: str = "*", **changes: object) -> QuantRecipe:
    """Return INT8 per-channel weights and per-token activations of some bits."""
    rules = {"linear": LayerRule(match=match, weight=int8_row(), input=blocks(Integer(bits=bits)))}
    return int8_row_recipe(**{"rules": rules} | changes)
