"""Stacks of experts become a linear layer for each expert, with the codes of the recipe."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationConfig
from compressed_tensors.utils.match import is_match
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GptOssConfig,
    GptOssForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from harness.backends.layer import LayerRule
from harness.errors import UnsupportedRecipe
from harness.export.checkpoint import export
from harness.export.layouts.compressed_tensors import CompressedTensors
from harness.export.layouts.gptq import Gptq
from harness.export.layouts.layout import Layout
from harness.formats.integer import Integer
from harness.formats.minifloat import Minifloat
from harness.models.checkpoints.methods.gptq import read_gptq
from harness.models.loaded import LoadedModel
from harness.quant.granularity import Granularity
from harness.quant.scale import PowerOfTwoScale
from harness.quant.schemes.affine import Affine
from harness.quant.schemes.block_scaled import BlockScaled
from harness.quant.schemes.nvfp4 import NVFP4Scale
from harness.quant.tensor import TensorFormat
from harness.recipe import QuantRecipe, quantize

Made = Callable[..., LoadedModel]
ROW, TENSOR, G16 = (Granularity(block=block) for block in ((1, -1), (-1, -1), (1, 16)))
E4M3 = Minifloat(exponent_bits=4, mantissa_bits=3, specials="nan")
E2M1 = Minifloat(exponent_bits=2, mantissa_bits=1)
FORMATS: dict[str, TensorFormat] = {
    "int8_row": BlockScaled(element=Integer(bits=8), granularity=ROW),
    "int8_tensor": BlockScaled(element=Integer(bits=8), granularity=TENSOR),
    "int4_g16": BlockScaled(element=Integer(bits=4), granularity=G16),
    "int4_asym": Affine(element=Integer(bits=4, signed=False), granularity=G16),
    "fp8_row": BlockScaled(element=E4M3, granularity=ROW),
    "fp8_block": BlockScaled(element=E4M3, granularity=Granularity(block=(16, 16))),
    "mxfp4": BlockScaled(
        element=E2M1, granularity=Granularity(block=(1, 32)), scale=PowerOfTwoScale()
    ),
    "nvfp4": BlockScaled(element=E2M1, granularity=G16, scale=NVFP4Scale()),
}
SIZES: dict[str, Any] = {
    "vocab_size": 261,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
QWEN3 = Qwen3MoeConfig(
    **SIZES, head_dim=32, moe_intermediate_size=32, num_experts=4, num_experts_per_tok=2
)
SMALL = Qwen3MoeConfig(
    **SIZES | {"num_hidden_layers": 1},
    head_dim=32,
    moe_intermediate_size=32,
    num_experts=3,
    num_experts_per_tok=2,
)
ROUTER = "mlp.gate"


def recipe(fmt: TensorFormat, match: str = "*", skip: tuple[str, ...] = ()) -> QuantRecipe:
    rules = {"all": LayerRule(match=match, weight=fmt)}
    return QuantRecipe(name="r", rules=rules, skip=("lm_head", "embed_tokens", *skip))


def written(
    loaded: LoadedModel, chosen: QuantRecipe, folder: Path, layout: Layout
) -> dict[str, torch.Tensor]:
    facts = {
        "command": "c",
        "config": {},
        "config_hash": "0" * 64,
        "packages": {"quant-harness": "0"},
    }
    export(loaded, chosen, layout, folder, shard_bytes=10**9, facts=facts)
    return load_file(folder / "model.safetensors")


def by_the_library(tensors: dict[str, torch.Tensor], folder: Path, path: str) -> torch.Tensor:
    """Decompress one layer with compressed-tensors alone, in its own arithmetic."""
    settings = AutoConfig.from_pretrained(folder).quantization_config
    scheme = QuantizationConfig.model_validate(settings).config_groups["group_0"]
    stored = {
        name.removeprefix(f"{path}."): tensor
        for name, tensor in tensors.items()
        if name.startswith(f"{path}.")
    }
    compressor = BaseCompressor.get_value_from_registry(settings["format"])
    found: torch.Tensor = compressor.decompress(stored, scheme)["weight"]
    return found


@pytest.mark.parametrize("name", FORMATS)
def test_every_expert_has_the_values_of_the_recipe(name: str, made: Made, tmp_path: Path) -> None:
    loaded = made(Qwen3MoeForCausalLM, SMALL)
    chosen = recipe(FORMATS[name])
    tensors = written(loaded, chosen, tmp_path / "out", CompressedTensors())
    quantize(loaded, chosen)
    # The library gives NVFP4 in bfloat16: its scales and its products are rounded to 8 bits.
    rtol = 2.0**-7 if name == "nvfp4" else 0.0
    experts = loaded.module.model.layers[0].mlp.experts
    for expert in range(3):
        gate, up = experts.gate_up_proj[expert].chunk(2)
        down = experts.down_proj[expert]
        for part, expected in (("gate_proj", gate), ("up_proj", up), ("down_proj", down)):
            path = f"model.layers.0.mlp.experts.{expert}.{part}"
            found = by_the_library(tensors, tmp_path / "out", path)
            torch.testing.assert_close(found.float(), expected, rtol=rtol, atol=0, msg=path)


def test_routers_stay_in_float_and_are_ignored(made: Made, tmp_path: Path) -> None:
    loaded = made(Qwen3MoeForCausalLM, QWEN3)
    tensors = written(loaded, recipe(FORMATS["int8_row"]), tmp_path / "out", CompressedTensors())
    settings = AutoConfig.from_pretrained(tmp_path / "out").quantization_config
    for block in range(2):
        name = f"model.layers.{block}.mlp.gate"
        assert name in settings["ignore"]
        assert tensors[f"{name}.weight"].dtype == torch.float32
    assert not [name for name in tensors if "gate_up_proj" in name]


def test_mixtral_has_names_of_its_own(made: Made, tmp_path: Path) -> None:
    config = MixtralConfig(**SIZES, intermediate_size=32, num_local_experts=4)
    loaded = made(MixtralForCausalLM, config)
    chosen = recipe(FORMATS["int4_g16"])
    tensors = written(loaded, chosen, tmp_path / "out", CompressedTensors())
    quantize(loaded, chosen)
    for number, expected in (
        ("w1", loaded.module.model.layers[1].mlp.experts.gate_up_proj[3].chunk(2)[0]),
        ("w3", loaded.module.model.layers[1].mlp.experts.gate_up_proj[3].chunk(2)[1]),
        ("w2", loaded.module.model.layers[1].mlp.experts.down_proj[3]),
    ):
        path = f"model.layers.1.block_sparse_moe.experts.3.{number}"
        assert torch.equal(by_the_library(tensors, tmp_path / "out", path), expected)


def test_experts_beside_a_shared_one_in_the_gptq_layout(made: Made, tmp_path: Path) -> None:
    config = Qwen2MoeConfig(
        **SIZES,
        moe_intermediate_size=32,
        shared_expert_intermediate_size=32,
        num_experts=4,
        num_experts_per_tok=2,
        decoder_sparse_step=1,
    )
    loaded = made(Qwen2MoeForCausalLM, config)
    chosen = recipe(FORMATS["int8_row"], skip=("*.shared_expert_gate",))
    tensors = written(loaded, chosen, tmp_path / "out", Gptq())
    assert "model.layers.0.mlp.experts.3.up_proj.qweight" in tensors
    assert "model.layers.0.mlp.shared_expert.up_proj.qweight" in tensors
    settings = AutoConfig.from_pretrained(tmp_path / "out").quantization_config
    read = read_gptq(tmp_path / "out", settings, torch.float32, loaded.module).weights
    quantize(loaded, chosen)
    expected = loaded.module.model.layers[0].mlp.experts.gate_up_proj[3].chunk(2)[1]
    found = read["model.layers.0.mlp.experts.3.up_proj.weight"]
    # Scales are float16 there, 11 bits.
    torch.testing.assert_close(found, expected, rtol=2.0**-11, atol=0)


def test_experts_in_float_beside_quantized_attention(made: Made, tmp_path: Path) -> None:
    loaded = made(Qwen3MoeForCausalLM, QWEN3)
    chosen = recipe(FORMATS["int8_row"], match="*self_attn*")
    tensors = written(loaded, chosen, tmp_path / "out", CompressedTensors())
    name = "model.layers.1.mlp.experts.2.down_proj"
    experts = loaded.module.model.layers[1].mlp.experts
    assert torch.equal(tensors[f"{name}.weight"], experts.down_proj[2])
    ignored = AutoConfig.from_pretrained(tmp_path / "out").quantization_config["ignore"]
    assert is_match(name, torch.nn.Linear(1, 1), ignored)
    assert r"re:model\.layers\.\d+\.mlp\.experts\.\d+\.down_proj$" in ignored, "not one by one"


def test_blocks_that_reach_over_gate_and_up_are_refused(made: Made, tmp_path: Path) -> None:
    wide = BlockScaled(element=E4M3, granularity=Granularity(block=(64, 32)))
    loaded = made(Qwen3MoeForCausalLM, QWEN3)
    with pytest.raises(UnsupportedRecipe, match="blocks of 64 rows must not reach over two layers"):
        written(loaded, recipe(wide), tmp_path / "out", CompressedTensors())
    assert list(tmp_path.iterdir()) == []


def test_stacks_that_files_hold_whole_are_refused_by_name(made: Made, tmp_path: Path) -> None:
    config = GptOssConfig(**SIZES, head_dim=32, intermediate_size=32, num_local_experts=4)
    loaded = made(GptOssForCausalLM, config)
    experts = recipe(FORMATS["int8_row"], match="*experts*")
    with pytest.raises(UnsupportedRecipe, match=r"model\.layers\.0\.mlp\.experts\.gate_up_proj"):
        written(loaded, experts, tmp_path / "out", CompressedTensors())
    assert list(tmp_path.iterdir()) == []


def test_the_conv1d_of_gpt2_is_no_layer_that_readers_know(made: Made, tmp_path: Path) -> None:
    loaded = made(GPT2LMHeadModel, GPT2Config(vocab_size=261, n_embd=32, n_layer=1, n_head=2))
    with pytest.raises(UnsupportedRecipe, match=r"got transformer\.h\.0\.attn\.c_attn .* Conv1D"):
        written(loaded, recipe(FORMATS["int8_row"]), tmp_path / "out", CompressedTensors())
    assert list(tmp_path.iterdir()) == []
