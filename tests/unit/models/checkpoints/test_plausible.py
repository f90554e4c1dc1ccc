"""Sizes that no file can fill: an error by config.json and headers alone, without memory."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig, Zamba2Config

from harness.errors import ModelError
from harness.models.checkpoints.plausible import (
    SLACK,
    check_config_sizes,
    check_memory,
    layer_counts,
    num_values,
)
from harness.models.checkpoints.stored_tensors import stored_tensors
from harness.models.sources.pretrained import LocalModel
from harness.models.sources.random import Shape

CPU = torch.device("cpu")


def told(folder: Path, **changed: int) -> str:
    """Return what a user is told of a folder whose config.json has other sizes."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changed))
    with pytest.raises(ModelError) as caught:
        LocalModel(path=str(folder), dtype="float32").load(CPU)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("layers", [21, 10**6, 10**19])
def test_more_layers_than_tensors_are_refused(folder: Path, layers: int) -> None:
    assert f"has num_hidden_layers {layers} and the weights 20 tensors" in told(
        folder, num_hidden_layers=layers
    )


@pytest.mark.parametrize(
    ("key", "size"),
    [
        ("vocab_size", 10**15),
        ("vocab_size", 5000),
        ("hidden_size", 4 * 10**12),
        ("intermediate_size", 10**15),
        ("head_dim", 10**9),
        ("num_key_value_heads", 10**9),
    ],
)
def test_more_values_than_the_files_hold_are_refused(folder: Path, key: str, size: int) -> None:
    assert "the weights hold at most 49,632 in" in told(folder, **{key: size})


def test_as_many_layers_as_tensors_are_not_too_many(folder: Path) -> None:
    assert "has num_hidden_layers" not in told(folder, num_hidden_layers=20)


def test_a_smaller_lack_is_told_by_names(folder: Path) -> None:
    assert "model.layers.2." in told(folder, num_hidden_layers=3)


def test_a_block_that_layers_share_is_counted_once(tmp_path: Path) -> None:
    config = Zamba2Config(
        vocab_size=261,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=12,
        num_attention_heads=4,
        num_key_value_heads=4,
        num_mem_blocks=1,
        layers_block_type=["mamba"] + ["hybrid"] * 11,
        hybrid_layer_ids=list(range(1, 12)),
        mamba_d_state=8,
        mamba_headdim=16,
        n_mamba_heads=8,
        use_mamba_kernels=False,
    )
    module = AutoModelForCausalLM.from_config(config)
    module.save_pretrained(tmp_path)
    in_the_files = sum(stored.numel for stored in stored_tensors(tmp_path).values())
    in_layers = sum(p.numel() for _, p in module.named_parameters(remove_duplicate=False))
    assert in_layers > SLACK * in_the_files
    check_config_sizes(tmp_path, trust_remote_code=False)


@pytest.mark.parametrize("packed", [8, 32])
def test_codes_may_be_stored_as_floats(tmp_path: Path, packed: int) -> None:
    """As by `bnb_4bit_quant_storage=torch.float32`: eight 4-bit codes in a number, or more."""
    config = LlamaConfig(
        vocab_size=8,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    weights = AutoModelForCausalLM.from_config(config).state_dict()
    for name, weight in weights.items():
        if name.endswith("_proj.weight"):
            weights[name] = torch.zeros(weight.numel() // packed, 1)
    save_file(weights, tmp_path / "model.safetensors")
    config.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="the values of the model must be in its files"):
        check_config_sizes(tmp_path, trust_remote_code=False)
    config.quantization_config = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    config.save_pretrained(tmp_path)
    check_config_sizes(tmp_path, trust_remote_code=False)
    config.intermediate_size = 96 * 10**6
    config.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="the values of the model must be in its files"):
        check_config_sizes(tmp_path, trust_remote_code=False)


def test_layers_of_parts_are_counted() -> None:
    config: dict[str, Any] = {
        "text_config": {"num_hidden_layers": 3, "num_attention_heads": 99},
        "vision_config": {"depth": 4},
        "n_layer": 5,
        "max_window_layers": 28,
        "num_layers": None,
    }
    assert sorted(layer_counts(config)) == [
        ("depth", 4),
        ("n_layer", 5),
        ("num_hidden_layers", 3),
    ]


SHAPE: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
}


@pytest.mark.parametrize(
    "changed",
    [{}, {"num_hidden_layers": 5}, {"intermediate_size": 999}, {"tie_word_embeddings": False}],
)
def test_parameters_of_a_shape_are_bounded_from_below(changed: dict[str, Any]) -> None:
    shape = Shape(**SHAPE | changed)
    assert 0.4 * num_values(shape.config()) < shape.least_parameters <= num_values(shape.config())


def test_what_no_memory_holds_is_refused() -> None:
    check_memory(10**6, "weights", CPU)
    with pytest.raises(
        ModelError, match=r"^weights must fit into the memory of cpu, .* got 1,000,000,000\.0 GB"
    ):
        check_memory(10**18, "weights", CPU)
