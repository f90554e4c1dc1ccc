"""Layers on recorded activations, against norms by hand."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from recipe_builders import int8_row_recipe
from torch import Tensor, nn

from harness.engines.local.engine import LocalEngine
from harness.engines.requests import Score
from harness.errors import InvalidResult
from harness.models.loaded import LoadedModel
from harness.recipe import quantize

REQUEST = Score((1, 2, 3), (4, 5, 6, 7))
DOWN = "model.layers.1.mlp.down_proj"


class Changed(nn.Linear):
    """A layer whose kernel errs."""

    def __init__(self, like: nn.Linear, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__(like.in_features, like.out_features, bias=False, device="meta")
        self.weight = like.weight
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        return self.change(super().forward(x))


@pytest.mark.parametrize(("decode", "rows"), [(0, [6]), (2, [4, 1, 1])])
def test_difference_is_relative_and_by_part(
    tiny: LoadedModel, decode: int, rows: list[int]
) -> None:
    engine = LocalEngine(tiny)
    quantize(tiny, int8_row_recipe())
    calls = engine.recorded(REQUEST, decode)
    assert [call.output.shape[1] for call in calls[DOWN]] == rows
    nothing = engine.layer_differences(calls)
    assert {found.value for found in nothing} == {0.0}
    assert {found.part for found in nothing} == ({"prompt", "decode"} if decode else {"prompt"})
    tiny.swap_module(DOWN, Changed(tiny.module.get_submodule(DOWN), lambda y: y + y.sin()))
    found = {each.part: each.value for each in engine.layer_differences(calls) if each.value}
    for part, single in (("prompt", False), ("decode", True)):
        outputs = [
            c.output.double().numpy() for c in calls[DOWN] if (c.output.shape[1] == 1) is single
        ]
        y = np.concatenate([each.ravel() for each in outputs] or [np.empty(0)])
        if len(y):
            expected = np.linalg.norm(np.sin(y)) / np.linalg.norm(y)
            assert found[part] == pytest.approx(expected, rel=1e-5)


def test_only_quantized_layers_are_recorded(tiny: LoadedModel) -> None:
    for skip, count in {("lm_head", "embed_tokens"): 14, ("embed_tokens",): 15}.items():
        tiny.restore()
        layers = quantize(tiny, replace(int8_row_recipe(), skip=skip)).report.layers
        calls = LocalEngine(tiny).recorded(REQUEST, 1)
        assert sorted(calls) == sorted(layer.name for layer in layers)
        assert len(calls) == count, skip
    modules = list(tiny.module.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in modules)


def test_output_that_is_not_finite_is_invalid_and_named(tiny: LoadedModel) -> None:
    """A NaN that a later operation drops must not pass."""
    engine = LocalEngine(tiny)
    quantize(tiny, int8_row_recipe())
    calls = engine.recorded(REQUEST, 0)
    tiny.swap_module(DOWN, Changed(tiny.module.get_submodule(DOWN), lambda y: y * math.nan))
    with pytest.raises(InvalidResult, match=rf"from {DOWN} and 1 layers in all"):
        engine.layer_differences(calls)
