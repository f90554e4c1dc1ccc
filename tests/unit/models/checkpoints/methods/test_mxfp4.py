"""GPT-OSS in MXFP4, packed here, against the values that were packed."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GptOssConfig, GptOssForCausalLM, GptOssPreTrainedModel

from harness.errors import ModelError
from harness.models.sources.pretrained import LocalModel
from harness.models.sources.tiny import byte_tokenizer

CPU = torch.device("cpu")
LEVELS = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6])
NAME = "model.layers.0.mlp.experts.gate_up_proj"

Tensors = dict[str, torch.Tensor]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a checkpoint with random codes and scales."""
    # Weights alone are compared here; how attention is computed does not matter.
    monkeypatch.setattr(GptOssPreTrainedModel, "_supports_sdpa", True)
    config = GptOssConfig(
        vocab_size=261,
        hidden_size=64,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        num_local_experts=3,
        num_experts_per_tok=2,
        max_position_embeddings=128,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        GptOssForCausalLM(config).save_pretrained(tmp_path)
        byte_tokenizer().save_pretrained(tmp_path)
        tensors = load_file(tmp_path / "model.safetensors")
        for name, rows, columns in ((NAME, 64, 64), (NAME.replace("gate_up", "down"), 64, 32)):
            del tensors[name]
            shape = (3, rows, columns // 32)
            tensors[f"{name}_blocks"] = torch.randint(0, 256, (*shape, 16), dtype=torch.uint8)
            tensors[f"{name}_scales"] = torch.randint(117, 125, shape, dtype=torch.uint8)
            # More bits than bfloat16 has.
            tensors[f"{name}_bias"] = torch.rand_like(tensors[f"{name}_bias"])
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    file = tmp_path / "config.json"
    settings = {"quantization_config": {"quant_method": "mxfp4"}}
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | settings), "utf-8")
    return tmp_path


def test_experts_are_exact_and_all_else_is_as_stored(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    loaded = LocalModel(path=str(folder), dtype="float32").load(CPU)
    stacks = 0
    for name, parameter in loaded.module.named_parameters():
        assert parameter.dtype == torch.float32
        if name in tensors:
            assert torch.equal(parameter, tensors[name].float()), name
            continue
        stacks += 1
        blocks, scales = tensors[f"{name}_blocks"], tensors[f"{name}_scales"]
        for e, k, n in ((0, 0, 0), (1, 31, 5), (2, 17, 63), (1, parameter.shape[1] - 1, 0)):
            byte = int(blocks[e, n, k // 32, k % 32 // 2])
            level = LEVELS[byte >> 4 if k % 2 else byte & 15]
            assert parameter[e, k, n] == level * 2.0 ** (int(scales[e, n, k // 32]) - 127)
    assert stacks == 2
    assert loaded.prequantized is not None
    assert loaded.prequantized.num_quantized == 3 * (64 * 64 + 64 * 32)
    assert loaded.prequantized.bits_per_weight == 4.25
    assert loaded.origin == "dequantized mxfp4 checkpoint (mxfp4 weights of experts)"


def test_lost_scales_are_named(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors[f"{NAME}_scales"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=rf"got \(3, 64, 2, 16\) and None for {NAME} in"):
        LocalModel(path=str(folder), dtype="float32").load(CPU)
