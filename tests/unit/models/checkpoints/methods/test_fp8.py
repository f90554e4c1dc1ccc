"""FP8 checkpoints of the method `fp8`, against loops over rectangles."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from quantized_folders import load, logits
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from harness.errors import ModelError
from harness.models.sources.tiny import byte_tokenizer
from harness.recipe import QuantRecipe, quantize

CPU = torch.device("cpu")
BLOCK = (48, 40)
"""Neither side divides a weight of 64 and 96."""
ROUNDING = 2e-5
"""Mean over logits of size 1, of float32 sums of 96 terms in another order; a step of FP8 moves
single ones."""

Tensors = dict[str, torch.Tensor]


def llama() -> LlamaForCausalLM:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=261,
                hidden_size=64,
                intermediate_size=96,
                num_hidden_layers=1,
                num_attention_heads=2,
                num_key_value_heads=1,
                max_position_embeddings=128,
                initializer_range=0.2,
                bos_token_id=None,
                eos_token_id=None,
            )
        ).eval()


def in_rectangles(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return codes, scales and what they stand for."""
    height, width = BLOCK
    codes, stands_for = torch.empty_like(weight).to(torch.float8_e4m3fn), torch.empty_like(weight)
    scales = torch.empty(-(-weight.shape[0] // height), -(-weight.shape[1] // width))
    for i in range(scales.shape[0]):
        for j in range(scales.shape[1]):
            rows, columns = slice(i * height, (i + 1) * height), slice(j * width, (j + 1) * width)
            scales[i, j] = weight[rows, columns].abs().max() / 448
            codes[rows, columns] = (weight[rows, columns] / scales[i, j]).to(torch.float8_e4m3fn)
            stands_for[rows, columns] = codes[rows, columns].float() * scales[i, j]
    return codes, scales, stands_for


def written(folder: Path, kind: str) -> tuple[Path, LlamaForCausalLM]:
    """Write a checkpoint; return its folder and the unquantized model that computes the same."""
    module = llama()
    module.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    for name, layer in module.named_modules():
        if not isinstance(layer, nn.Linear) or name == "lm_head":
            continue
        weight = layer.weight.detach()
        if kind == "rectangles":
            codes, scale, layer.weight.data = in_rectangles(weight)
            tensors[f"{name}.weight_scale_inv"] = scale
            layer.register_forward_pre_hook(lambda _, args: (by_group(args[0]),))
        else:
            scale = weight.abs().max() / 448
            codes = (weight / scale).to(torch.float8_e4m3fn)
            layer.weight.data = codes.float() * scale
            tensors[f"{name}.weight_scale"] = scale.view(())
            if kind == "static":
                tensors[f"{name}.input_scale"] = torch.tensor(0.01)
                layer.register_forward_pre_hook(lambda _, args: (fp8(args[0], 0.01),))
            else:
                layer.register_forward_pre_hook(
                    lambda _, args: (fp8(args[0], args[0].abs().amax(-1, keepdim=True) / 448),)
                )
        tensors[f"{name}.weight"] = codes
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    settings: dict[str, Any] = {"quant_method": "fp8"}
    settings["activation_scheme"] = "static" if kind == "static" else "dynamic"
    settings |= {"weight_block_size": list(BLOCK)} if kind == "rectangles" else {}
    file = folder / "config.json"
    config = json.loads(file.read_text(encoding="utf-8")) | {"quantization_config": settings}
    file.write_text(json.dumps(config), encoding="utf-8")
    return folder, module


def fp8(x: torch.Tensor, scale: Any) -> torch.Tensor:
    return (x / scale).clamp(-448, 448).to(torch.float8_e4m3fn).float() * scale


def by_group(x: torch.Tensor) -> torch.Tensor:
    groups = x.split(BLOCK[1], -1)
    return torch.cat([fp8(g, g.abs().amax(-1, keepdim=True) / 448) for g in groups], -1)


@pytest.mark.parametrize(
    ("kind", "inputs"),
    [
        ("rectangles", "fp8 in groups of 40"),
        ("tensor", "fp8 by token"),
        ("static", "fp8 by tensor, static"),
    ],
)
def test_weights_are_exact_and_inputs_are_rounded(tmp_path: Path, kind: str, inputs: str) -> None:
    folder, module = written(tmp_path, kind)
    found = load(folder)
    for name, parameter in found.module.named_parameters():
        assert torch.equal(parameter, module.get_parameter(name)), name
    expected = logits(module)
    assert (logits(found.module) - expected).abs().mean() < ROUNDING
    for layer in module.modules():
        layer._forward_pre_hooks.clear()
    assert (logits(module) - expected).abs().mean() > 100 * ROUNDING
    report = quantize(found, QuantRecipe()).report
    assert report.input_formats == {"checkpoint": inputs}
    assert "fp8 inputs" in found.origin


@pytest.mark.parametrize(
    ("kind", "lost", "reason"),
    [
        ("rectangles", "weight_scale_inv", "got 0 of weight_scale_inv and weight_scale"),
        ("static", "input_scale", "got 0 of activation_scale and input_scale"),
    ],
)
def test_lost_scale_is_named(tmp_path: Path, kind: str, lost: str, reason: str) -> None:
    folder, _ = written(tmp_path, kind)
    tensors = load_file(folder / "model.safetensors")
    path = "model.layers.0.mlp.up_proj"
    del tensors[f"{path}.{lost}"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=rf"layer {path} must be FP8 with scales, {reason}"):
        load(folder)


def test_scales_of_other_rectangles_are_refused(tmp_path: Path) -> None:
    folder, _ = written(tmp_path, "rectangles")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight_scale_inv"] = torch.ones(3, 2)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"scales \(3, 2\) where there must be \(2, 2\)"):
        load(folder)


def test_static_scales_that_the_settings_do_not_name_are_refused(tmp_path: Path) -> None:
    folder, _ = written(tmp_path, "tensor")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.input_scale"] = torch.ones(())
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"must be of use, .*input_scale"):
        load(folder)
