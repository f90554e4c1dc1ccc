"""A folder without its weights answers as the whole model does, and computes nothing."""

import json
from pathlib import Path

import pytest
import torch

from harness.errors import ModelError
from harness.models.sources.config_only import load_weightless
from harness.models.sources.pretrained import LocalModel

CPU = torch.device("cpu")


def test_folder_says_the_same_without_its_weights(folder: Path) -> None:
    whole = LocalModel(path=str(folder), dtype="float32").load(CPU)
    light = load_weightless(folder, dtype="float32")
    assert all(parameter.is_meta for parameter in light.module.parameters())
    assert light.num_parameters == whole.num_parameters
    assert light.max_length == whole.max_length
    assert light.fingerprint == whole.fingerprint
    eos = whole.module.generation_config.eos_token_id
    assert light.module.generation_config.eos_token_id == eos == 260
    text = "Zoë: A B\n"
    assert light.tokenizer(text)["input_ids"] == whole.tokenizer(text)["input_ids"]


def test_end_tokens_are_those_of_the_generation_configuration(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "generation_config.json").write_text('{"eos_token_id": [7, 260]}')
    light = load_weightless(folder, dtype="float32")
    assert light.module.generation_config.eos_token_id == [7, 260]
    (folder / "generation_config.json").unlink()
    light = load_weightless(folder, dtype="float32")
    assert light.module.generation_config.eos_token_id == 260


def test_quantized_checkpoint_has_the_shapes_of_the_float_model(folder: Path) -> None:
    plain = load_weightless(folder, dtype="float32")
    config = json.loads((folder / "config.json").read_text("utf-8"))
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4, "group_size": 64}
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    packed = load_weightless(folder, dtype="float32")
    assert packed.num_parameters == plain.num_parameters
    assert packed.fingerprint != plain.fingerprint


def test_damaged_configuration_is_a_model_error(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "no such"}')
    with pytest.raises(ModelError, match="must be one that transformers reads"):
        load_weightless(folder, dtype="float32")
