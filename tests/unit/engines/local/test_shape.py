"""Sizes that decide the costs of a model, read off models of several architectures whose sizes are given."""

from typing import Any

import pytest
import torch
from architectures import in_memory
from torch import nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from harness.engines.local.shape import shape_of, streamed_bytes
from harness.engines.timed import NoShape
from harness.models.loaded import LoadedModel

SIZES = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
ATTENTION = 32 * 32 + 2 * 32 * 16 + 32 * 32
"""Weights of query, key and value, and output."""
MLP = 3 * 32 * 40


def load(kind: str, **changes: Any) -> LoadedModel:
    config = CONFIG_MAPPING[kind](**SIZES | changes)
    with torch.random.fork_rng(devices=[]):
        module = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    return in_memory(module, kind, fingerprint="x")


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "gemma2"])
def test_weights_heads_and_keys_are_those_of_the_sizes(kind: str) -> None:
    for tied in (True, False):
        shape = shape_of(load(kind, tie_word_embeddings=tied))
        assert shape.body_weights == 2 * (ATTENTION + MLP), tied
        assert shape.head_weights == 300 * 32, tied
        assert (shape.heads, shape.kv_heads, shape.head_dim) == (4, 2, 8)
        assert (shape.kv_itemsize, shape.row_bytes) == (2, 64)


def test_layers_of_a_quantized_model_count_what_they_stand_for() -> None:
    loaded = load("llama", tie_word_embeddings=False)
    before = shape_of(loaded)

    class Packed(nn.Module):
        """A layer of some library: codes of 4 bits, and a layer of its own inside."""

        def __init__(self, layer: nn.Linear) -> None:
            super().__init__()
            self.in_features, self.out_features = layer.in_features, layer.out_features
            codes = torch.zeros(layer.weight.numel() // 2, 1, dtype=torch.uint8)
            self.weight = nn.Parameter(codes, requires_grad=False)
            self.inner = nn.Linear(2, 2)

    for path in ("model.layers.0.mlp.up_proj", "lm_head"):
        loaded.swap_module(path, Packed(loaded.module.get_submodule(path)))
    assert shape_of(loaded) == before


def test_layers_that_slide_see_their_window() -> None:
    assert shape_of(load("gemma2", sliding_window=16)).windows == (16, None)
    assert shape_of(load("mistral", sliding_window=16)).windows == (16, 16)
    assert shape_of(load("mistral", sliding_window=None)).windows == (None, None)
    assert shape_of(load("qwen2", sliding_window=16, use_sliding_window=False)).windows == (
        None,
        None,
    )


def test_a_tied_table_is_streamed_by_the_head_and_a_free_one_is_not() -> None:
    tied, free = (load("llama", tie_word_embeddings=tied) for tied in (True, False))
    matrices = 2 * (2 * (ATTENTION + MLP) + 300 * 32)
    norms = 2 * 5 * 32
    for loaded in (tied, free):
        # Beside the matrices: norms, and the frequencies of rotary embeddings.
        assert 0 <= streamed_bytes(loaded) - matrices - norms < 200


def test_a_mixture_of_experts_has_no_shape() -> None:
    with pytest.raises(NoShape, match="which experts"):
        shape_of(load("mixtral", num_local_experts=4))


def test_a_matrix_outside_of_linear_layers_has_no_shape() -> None:
    with pytest.raises(NoShape, match="is not the weight of a linear layer"):
        shape_of(load("gpt2", n_embd=32, n_layer=2, n_head=4))


def test_an_unknown_kind_of_layer_has_no_shape(
    tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny.module.config, "layer_types", ["linear_attention"] * 2, raising=False)
    with pytest.raises(NoShape, match="linear_attention"):
        shape_of(tiny)
