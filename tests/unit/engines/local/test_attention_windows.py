"""Windows of layers, against masks that transformers builds and against prompts that run alone."""

from typing import Any

import architectures
import numpy as np
import pytest
import torch
from architectures import in_memory
from plain_engine import PlainEngine

from harness.engines.local.attention_windows import known_length
from harness.engines.local.engine import LocalEngine
from harness.engines.local.split_model import split
from harness.engines.requests import Score, Scored
from harness.models.checkpoints.folder import prepare
from harness.models.loaded import LoadedModel

CPU = torch.device("cpu")
WINDOW = 64
QWEN: dict[str, Any] = {"use_sliding_window": True, "max_window_layers": 1}
# Classes that mask the keys behind a window -> options, and the length up to which all is known.
MODELS: dict[str, tuple[dict[str, Any], int | None]] = {
    "qwen2_moe": (QWEN, WINDOW),
    "phimoe": ({}, WINDOW),
    "qwen3_moe": (QWEN, None),
    "gemma2": ({}, None),
}


def model_of(name: str) -> LoadedModel:
    module = architectures.build(name, sliding_window=WINDOW, **MODELS[name][0])
    return in_memory(prepare(module, CPU), name)


@pytest.mark.parametrize("name", MODELS)
def test_layers_that_do_not_name_their_window_are_found(name: str) -> None:
    loaded = model_of(name)
    before = loaded.attention
    with split(loaded) as model:
        # The last of `WINDOW` tokens sees all of them.
        assert known_length(model) == MODELS[name][1]
    assert loaded.attention == before


@pytest.mark.parametrize("name", MODELS)
def test_prompts_longer_than_a_window_are_scored_as_alone(name: str) -> None:
    loaded = model_of(name)
    drawn = np.random.default_rng(0)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(drawn.integers(3, 250, count).tolist())

    root = ids(WINDOW + 20)
    requests = [Score((*root, *ids(count)), ids(3)) for count in (1, 9, 30)]
    engine = LocalEngine(loaded)
    found = dict(engine.answer(requests))
    for index, alone in PlainEngine(loaded).answer(requests):
        each = found[index]
        assert isinstance(each, Scored)
        assert isinstance(alone, Scored)
        # Float32 sums of another order; keys behind the window move ln p by several nat.
        np.testing.assert_allclose(each.log_probs, alone.log_probs, atol=1e-4)
    assert bool(engine.warnings()) is (MODELS[name][1] is not None)
