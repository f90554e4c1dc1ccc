"""Positions that depend on the length of the whole sequence, against sequences that run alone."""

from collections.abc import Sequence
from typing import Any

import architectures
import numpy as np
import pytest
import torch
from architectures import in_memory
from plain_engine import PlainEngine

from harness.engines.local.engine import LocalEngine
from harness.engines.local.positions import changes
from harness.engines.requests import Generate, Request, Score, Scored
from harness.models.checkpoints.folder import prepare
from harness.models.loaded import LoadedModel

CPU = torch.device("cpu")
ORIGINAL = 64
"""Length beyond which the frequencies of all tokens change [token]."""
PLAIN = {"rope_type": "default", "rope_theta": 1e4}
LONG = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0] * 8,
    "long_factor": [1.0 + 3 * index for index in range(8)],
    "original_max_position_embeddings": ORIGINAL,
}
OPTIONS: dict[str, dict[str, Any]] = {
    "llama": {"rope_parameters": LONG},
    "gemma3_text": {
        "rope_parameters": {"sliding_attention": PLAIN, "full_attention": LONG},
        "layer_types": ["sliding_attention", "full_attention"],
    },
}
drawn = np.random.default_rng(0)


def ids(count: int) -> tuple[int, ...]:
    return tuple(drawn.integers(3, 250, count).tolist())


def model_of(name: str) -> LoadedModel:
    return in_memory(prepare(architectures.build(name, **OPTIONS[name]), CPU), name)


def check(loaded: LoadedModel, requests: Sequence[Request]) -> None:
    """Compare with every request on its own, and each new token with all before it."""
    found = dict(LocalEngine(loaded, batch_tokens=4096).answer(requests))
    for index, alone in PlainEngine(loaded).answer(requests):
        each = found[index]
        if isinstance(each, Scored) and isinstance(alone, Scored):
            # Float32 sums of another order; other frequencies move ln p by several nat.
            np.testing.assert_allclose(each.log_probs, alone.log_probs, atol=1e-4)
        else:
            assert each == alone


@pytest.mark.parametrize("name", OPTIONS)
def test_sequences_of_all_lengths_are_answered_as_alone(name: str) -> None:
    loaded = model_of(name)
    assert changes(loaded) == (ORIGINAL,)
    # Runs that share nothing, of up to and of more than the original length in one batch.
    lengths = (20, ORIGINAL - 1, ORIGINAL, ORIGINAL + 1, ORIGINAL + 2, 100)
    check(loaded, [Score(ids(length // 2), ids(length - length // 2)) for length in lengths])
    # Runs that begin alike, some of which are longer.
    root = ids(40)
    check(loaded, [Score((*root, *ids(length)), ids(4)) for length in (5, 20, 40)])


@pytest.mark.parametrize("name", OPTIONS)
def test_new_tokens_count_as_a_part_of_the_sequence(name: str) -> None:
    loaded = model_of(name)
    root = ids(ORIGINAL - 10)
    # No prompt is longer than the original length, but two continuations are.
    check(loaded, [Generate((*root, *ids(count)), 8) for count in (1, 5, 9)])


def test_other_positions_do_not_change(tiny: LoadedModel) -> None:
    assert changes(tiny) == ()
