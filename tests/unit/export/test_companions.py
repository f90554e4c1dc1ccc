"""The files beside the weights: copied from the unquantized folder, readable by transformers 4."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM

from harness.backends.layer import LayerRule
from harness.errors import ModelError
from harness.export.checkpoint import export
from harness.export.layouts.compressed_tensors import CompressedTensors
from harness.formats.integer import Integer
from harness.models.loaded import LoadedModel
from harness.models.sources.pretrained import LocalModel
from harness.quant.granularity import Granularity
from harness.quant.schemes.block_scaled import BlockScaled
from harness.recipe import QuantRecipe

Made = Callable[..., LoadedModel]
INT8 = BlockScaled(element=Integer(bits=8), granularity=Granularity(block=(1, -1)))
RECIPE = QuantRecipe(name="int8_row", rules={"all": LayerRule(match="*", weight=INT8)})
FACTS = {"command": "c", "config": {}, "config_hash": "0" * 64, "packages": {"quant-harness": "0"}}
CONFIG = LlamaConfig(
    vocab_size=261,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=1,
    num_attention_heads=2,
    bos_token_id=None,
    eos_token_id=None,
)
CPU = torch.device("cpu")
GREEDY_WITH_TEMPERATURE = {"do_sample": False, "temperature": 0.9, "top_p": 0.6, "eos_token_id": 2}


def saved(loaded: LoadedModel, folder: Path, **files: Any) -> LocalModel:
    loaded.module.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content), "utf-8")
    return LocalModel(path=str(folder), name="local", dtype="float32")


def written(loaded: LoadedModel, out: Path) -> Path:
    export(loaded, RECIPE, CompressedTensors(), out, shard_bytes=10**9, facts=FACTS)
    return out


CODE = """
from transformers import LlamaConfig, LlamaForCausalLM


class OwnConfig(LlamaConfig):
    model_type = "own"


class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
"""


def read_json(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return found


@pytest.mark.filterwarnings("ignore")
def test_generation_settings_that_transformers_refuses_to_save_are_copied(
    made: Made, tmp_path: Path
) -> None:
    source = saved(
        made(LlamaForCausalLM, CONFIG), tmp_path / "in", generation_config=GREEDY_WITH_TEMPERATURE
    )
    out = written(source.load(CPU), tmp_path / "out")
    assert read_json(out / "generation_config.json") == GREEDY_WITH_TEMPERATURE


def test_what_preprocesses_images_and_the_chat_template_come_along(
    made: Made, tmp_path: Path
) -> None:
    image = {"image_processor_type": "X", "size": {"height": 28}}
    source = saved(
        made(LlamaForCausalLM, CONFIG),
        tmp_path / "in",
        preprocessor_config=image,
        processor_config={"processor_class": "Y"},
        training_args={"lr": 1},
    )
    (tmp_path / "in" / "chat_template.jinja").write_text("{{ messages }}")
    out = written(source.load(CPU), tmp_path / "out")
    assert read_json(out / "preprocessor_config.json") == image
    assert read_json(out / "processor_config.json") == {"processor_class": "Y"}
    assert (out / "chat_template.jinja").read_text() == "{{ messages }}"
    assert not (out / "training_args.json").exists(), "no part of the model"
    assert (out / "tokenizer.json").read_bytes() == (tmp_path / "in/tokenizer.json").read_bytes()


def test_settings_that_lay_in_no_folder_and_cannot_be_saved_are_one_clear_line(
    made: Made, tmp_path: Path
) -> None:
    loaded = made(LlamaForCausalLM, CONFIG)
    loaded.module.generation_config = GenerationConfig(do_sample=False, temperature=0.5)
    with pytest.raises(ModelError, match=r"generation settings of made must be ones.*got: "):
        written(loaded, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_tokenizer_has_a_class_that_transformers_4_knows(made: Made, tmp_path: Path) -> None:
    loaded = made(LlamaForCausalLM, CONFIG)
    loaded.tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    out = written(loaded, tmp_path / "out")
    settings = read_json(out / "tokenizer_config.json")
    # 4.57.6: "Tokenizer class TokenizersBackend does not exist", and a list has no .keys().
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert not isinstance(settings.get("extra_special_tokens"), list)
    read = AutoTokenizer.from_pretrained(out)
    text = "a<image>b"
    assert read(text)["input_ids"] == loaded.tokenizer(text)["input_ids"]
    assert "<image>" in read.all_special_tokens


def test_a_model_with_code_of_its_own_is_exported_with_it(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "m"))
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "m"))
    source = saved(made(LlamaForCausalLM, CONFIG), tmp_path / "in")
    classes = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnForCausalLM"}
    file = tmp_path / "in" / "config.json"
    file.write_text(json.dumps(read_json(file) | {"model_type": "own", "auto_map": classes}))
    (tmp_path / "in" / "own.py").write_text(CODE)
    with pytest.raises(ModelError, match=r"must be trusted.*add model\.trust_remote_code=true"):
        source.load(CPU)
    out = written(replace(source, trust_remote_code=True).load(CPU), tmp_path / "out")
    assert (out / "own.py").read_text() == CODE
    exported = LocalModel(path=str(out), dtype="float32")
    with pytest.raises(ModelError, match=r"must be trusted.*add model\.trust_remote_code=true"):
        exported.load(CPU)
    assert replace(exported, trust_remote_code=True).load(CPU).prequantized is not None
