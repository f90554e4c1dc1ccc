"""Small random models, their quantized checkpoints, and the logits to expect of them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
    TorchAoConfig,
)

from harness.engines.local.split_model import split
from harness.models.loaded import LoadedModel
from harness.models.sources.pretrained import LocalModel
from harness.models.sources.tiny import byte_tokenizer

CPU = torch.device("cpu")
IDS = torch.arange(3, 43).view(2, 20)
TENSORS = "model.safetensors"
UP = "model.layers.0.mlp.up_proj"

SMALL: dict[str, Any] = {
    "vocab_size": 261,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
    "bos_token_id": None,
    "eos_token_id": None,
}
Weights = dict[str, torch.Tensor]


def llama() -> LlamaForCausalLM:
    """Return a random model; the widths of its layers are multiples of 64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=261,
                hidden_size=64,
                intermediate_size=128,
                num_hidden_layers=1,
                num_attention_heads=2,
                num_key_value_heads=1,
                max_position_embeddings=128,
                initializer_range=0.1,
                bos_token_id=None,
                eos_token_id=None,
            )
        ).eval()


def small_llama() -> LlamaForCausalLM:
    """Return a random model whose layers have rows of 32 and 48."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlamaForCausalLM(LlamaConfig(**SMALL)).eval()


def small_mixture() -> Qwen3MoeForCausalLM:
    """Return the same with 4 experts, of which each token takes 2."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
        return Qwen3MoeForCausalLM(Qwen3MoeConfig(**SMALL, **experts)).eval()


def linears(module: nn.Module) -> dict[str, nn.Linear]:
    """Return the linear layers of the decoder."""
    return {
        name: layer
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear) and name != "lm_head"
    }


def load(folder: Path, dtype: Any = "float32") -> LoadedModel:
    return LocalModel(path=str(folder), dtype=dtype).load(CPU)


def logits(module: Any) -> torch.Tensor:
    with torch.inference_mode():
        return module(IDS).logits.float()


def expected_logits(weights: Callable[[str, torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Return the logits of the unquantized model with other weights in its linear layers."""
    module = llama()
    for name, layer in linears(module).items():
        layer.weight.data = weights(name, layer.weight.data)
    return logits(module)


def written(folder: Path, tensors: Weights, settings: dict[str, Any]) -> Path:
    """Write a checkpoint: given tensors, other weights of the unquantized model, and the settings."""
    llama().config.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    whole = llama().state_dict()
    replaced = {key.rpartition(".")[0] for key in tensors}
    rest = {key: w for key, w in whole.items() if key.rpartition(".")[0] not in replaced}
    contiguous = {key: tensor.contiguous() for key, tensor in (rest | tensors).items()}
    save_file(contiguous, folder / TENSORS, metadata={"format": "pt"})
    change_config(folder, quantization_config=settings)
    return folder


def change_config(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    config = json.loads(file.read_text(encoding="utf-8")) | changes
    file.write_text(json.dumps(config), encoding="utf-8")


def change_tensors(folder: Path, change: Callable[[Weights], object]) -> None:
    """Rewrite the tensors of a folder."""
    with safe_open(folder / TENSORS, "pt") as opened:
        metadata = opened.metadata()
    tensors = load_file(folder / TENSORS)
    change(tensors)
    save_file(tensors, folder / TENSORS, metadata=metadata)


def change_layer(folder: Path, path: str, **tensors: torch.Tensor | None) -> None:
    """Change tensors of a layer in the file of a folder; None takes one out."""

    def change(stored: Weights) -> None:
        for part, tensor in tensors.items():
            stored.pop(f"{path}.{part}", None)
            if tensor is not None:
                stored[f"{path}.{part}"] = tensor

    change_tensors(folder, change)


def compressed(folder: Path, bits: int, group: int | None) -> Path:
    """Let compressed-tensors write INT8 weights and inputs, or packed INT4 weights in groups."""
    ct = pytest.importorskip("compressed_tensors.quantization")
    compressors = pytest.importorskip("compressed_tensors.compressors")
    weights = ct.QuantizationArgs(
        num_bits=bits, strategy="group" if group else "channel", group_size=group, symmetric=True
    )
    inputs = None if group else ct.QuantizationArgs(num_bits=8, strategy="token", dynamic=True)
    layout = "pack-quantized" if group else "int-quantized"
    plan = ct.QuantizationScheme(targets=["Linear"], weights=weights, input_activations=inputs)
    settings = ct.QuantizationConfig(
        config_groups={"all": plan}, ignore=["lm_head"], format=layout, quantization_status="frozen"
    )
    module = llama()
    ct.apply_quantization_config(module, settings)
    for layer in linears(module).values():
        blocks = layer.weight.detach().unflatten(-1, (-1, group or layer.in_features))
        scale: Any = layer.weight_scale
        scale.data = blocks.abs().amax(-1) / (2 ** (bits - 1) - 1)
    compressor = compressors.ModelCompressor.from_pretrained_model(module, layout)
    compressor.compress_model(module)
    module.save_pretrained(folder)
    compressor.update_config(str(folder))
    byte_tokenizer().save_pretrained(folder)
    return folder


def library_folder(float_folder: Path, folder: Path, method: str) -> Path:
    """Let transformers and a library quantize the float folder."""
    if method == "torchao":
        library = pytest.importorskip("torchao.quantization")
        config = TorchAoConfig(library.Int8WeightOnlyConfig())
    else:
        pytest.importorskip("bitsandbytes")
        four = {"load_in_4bit": True, "bnb_4bit_quant_type": method[:3]}
        double = {"bnb_4bit_use_double_quant": method.endswith("dq")}
        config = BitsAndBytesConfig(
            **({"load_in_8bit": True} if method == "llm_int8" else four | double)
        )
    module = AutoModelForCausalLM.from_pretrained(
        float_folder, dtype=torch.float32, quantization_config=config, device_map={"": "cpu"}
    )
    module.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def check_facts(loaded: LoadedModel, folder: Path, *, kind: str, bits: tuple[float, float]) -> None:
    """Compare what is said of the checkpoint with its files and with the unquantized model."""
    facts, module = loaded.prequantized, llama()
    assert facts is not None
    assert facts.kind == kind
    assert facts.num_parameters == sum(p.numel() for p in module.parameters())
    assert facts.num_quantized == sum(layer.weight.numel() for layer in linears(module).values())
    stored = load_file(folder / TENSORS).values()
    assert facts.file_bytes == sum(tensor.nbytes for tensor in stored)
    assert bits[0] <= facts.bits_per_weight <= bits[1]
    assert loaded.origin == facts.origin
    if kind == "fake-quant":
        assert facts.stored_bytes >= 4 * facts.num_parameters
        assert facts.origin.startswith("dequantized ")
    else:
        # In memory there are the codes of the files, and the constants of the rotation.
        assert abs(facts.stored_bytes - facts.file_bytes) < 4000
    with split(loaded) as halves:
        found = halves.logits(halves.hidden(IDS))
    assert torch.equal(found, logits(loaded.module))
