"""Models with other names, norms, biases or heads: exported and read back by transformers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from transformers import CompressedTensorsConfig, PreTrainedConfig, PreTrainedModel

from harness.backends.layer import LayerRule
from harness.errors import UnsupportedRecipe
from harness.export.checkpoint import export
from harness.export.layouts.compressed_tensors import CompressedTensors
from harness.formats.integer import Integer
from harness.models.loaded import LoadedModel
from harness.models.sources.pretrained import LocalModel
from harness.models.sources.tiny import byte_tokenizer
from harness.quant.granularity import Granularity
from harness.quant.schemes.block_scaled import BlockScaled
from harness.recipe import QuantRecipe, quantize

pytestmark = pytest.mark.filterwarnings("ignore:You passed .quantization_config.:UserWarning")
Made = Callable[[type[PreTrainedModel], PreTrainedConfig], LoadedModel]
INT8 = BlockScaled(element=Integer(bits=8), granularity=Granularity(block=(1, -1)))
RECIPE = QuantRecipe(name="int8_row", rules={"all": LayerRule(match="*", weight=INT8)})
FACTS = {"command": "c", "config": {}, "config_hash": "0" * 64, "packages": {"quant-harness": "0"}}
TEXT: dict[str, Any] = {
    "vocab_size": 269,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
ROPE = {"rope_type": "default", "rope_theta": 1e5}
DENSE: dict[str, tuple[str, dict[str, Any]]] = {
    "llama with biases": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "llama with a tied head": ("Llama", {"tie_word_embeddings": True}),
    "qwen2": ("Qwen2", {}),
    "qwen3": ("Qwen3", {"head_dim": 16}),
    "gemma2": ("Gemma2", {"head_dim": 16}),
    "gemma3": ("Gemma3Text", {"head_dim": 16, "sliding_window": 16}),
    "phi3 with joined q, k and v": ("Phi3", {}),
    "stablelm with a part that rotates": (
        "StableLm",
        {"rope_parameters": ROPE | {"partial_rotary_factor": 0.5}},
    ),
}
WRAPPERS: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma3": (
        "Gemma3",
        {
            "text_config": TEXT | {"head_dim": 16, "query_pre_attn_scalar": 16},
            "vision_config": VISION,
            "mm_tokens_per_image": 4,
            "image_token_index": 261,
            "boi_token_index": 262,
            "eoi_token_index": 263,
        },
    ),
    "qwen2_vl": (
        "Qwen2VL",
        {
            "text_config": TEXT | {"rope_parameters": ROPE | {"mrope_section": [1, 1, 2]}},
            "vision_config": {"depth": 1, "embed_dim": 32, "hidden_size": 32, "num_heads": 2},
            "image_token_id": 261,
        },
    ),
    "llava": (
        "Llava",
        {
            "text_config": TEXT | {"model_type": "llama", "rope_parameters": ROPE},
            "vision_config": VISION | {"model_type": "clip_vision_model"},
            "image_token_index": 261,
        },
    ),
}


def written(loaded: LoadedModel, out: Path) -> dict[str, torch.Tensor]:
    export(loaded, RECIPE, CompressedTensors(), out, shard_bytes=10**9, facts=FACTS)
    return load_file(out / "model.safetensors")


@pytest.mark.parametrize("name", DENSE)
def test_a_dense_model_is_read_by_transformers(name: str, made: Made, tmp_path: Path) -> None:
    family, options = DENSE[name]
    config = getattr(transformers, f"{family}Config")(**(TEXT | options))
    kind = getattr(transformers, f"{family.removesuffix('Text')}ForCausalLM")
    loaded = made(kind, config)
    written(loaded, tmp_path / "out")
    read = kind.from_pretrained(
        tmp_path / "out",
        dtype=torch.float32,
        quantization_config=CompressedTensorsConfig(dequantize=True),
    )
    quantize(loaded, RECIPE)
    ids = torch.arange(1, 40)[None]
    with torch.no_grad():
        found, wanted = (m(ids, use_cache=False).logits for m in (read.eval(), loaded.module))
    # The same weights; sums of float32 in the same order, but for how memory is laid out.
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", WRAPPERS)
def test_the_text_model_inside_a_wrapper_has_the_wrapper_s_names(
    name: str, made: Made, tmp_path: Path
) -> None:
    family, options = WRAPPERS[name]
    kind = getattr(transformers, f"{family}ForConditionalGeneration")
    loaded = made(kind, getattr(transformers, f"{family}Config")(**options))
    # Wrappers that were loaded from a folder remember the names that it had.
    loaded.module.save_pretrained(tmp_path / "float")
    loaded.module = kind.from_pretrained(tmp_path / "float", dtype=torch.float32).eval()
    floats = load_file(tmp_path / "float" / "model.safetensors")
    tensors = written(loaded, tmp_path / "out")
    paths = {key.removesuffix(".weight_packed") for key in tensors if "_packed" in key}
    assert {f"{path}.weight" for path in paths} <= floats.keys()
    assert any(path.endswith("layers.0.mlp.up_proj") for path in paths)
    assert not [path for path in paths if "vis" in path], "no part of a text run"
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architectures"] == [kind.__name__]
    read = kind.from_pretrained(
        tmp_path / "out",
        dtype=torch.float32,
        quantization_config=CompressedTensorsConfig(dequantize=True),
    )
    in_memory = quantize(loaded, RECIPE).report
    wanted = loaded.module.state_dict()
    byte_tokenizer().save_pretrained(tmp_path / "out")
    again = LocalModel(path=str(tmp_path / "out"), dtype="float32").load(torch.device("cpu"))
    as_read = quantize(again, QuantRecipe(name="none")).report
    # The vision tower is no part of a text run, wherever the codes come from.
    assert as_read.coverage == in_memory.coverage
    assert as_read.num_quantized == in_memory.num_quantized
    assert all(torch.equal(value, wanted[key]) for key, value in read.state_dict().items())
    kept = {key for key in tensors if key.endswith(".weight")}
    assert all(torch.equal(tensors[key], floats[key]) for key in kept)


def test_stacks_that_lie_as_inputs_by_outputs_are_refused_by_name(
    made: Made, tmp_path: Path
) -> None:
    options = TEXT | {"head_dim": 16, "num_local_experts": 2, "intermediate_size_mlp": 48}
    loaded = made(transformers.Llama4ForCausalLM, transformers.Llama4TextConfig(**options))
    with pytest.raises(UnsupportedRecipe, match=r"got model\.layers\.\d.*experts.gate_up_proj"):
        written(loaded, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
