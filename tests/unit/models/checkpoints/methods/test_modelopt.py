"""Checkpoints of ModelOpt, written here by its rules, against weights and rounding done here."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from quantized_folders import change_layer, load, logits, small_llama, small_mixture
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F
from transformers import (
    PreTrainedModel,
)
from transformers.models.llama import modeling_llama

from harness.errors import ModelError
from harness.models.checkpoints.methods.modelopt import dequantize_modelopt
from harness.models.sources.tiny import byte_tokenizer

E2M1 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
FP8 = torch.float8_e4m3fn
INPUT_SCALE = 0.01
Tensors = dict[str, torch.Tensor]
Quantize = Callable[[torch.Tensor], tuple[Tensors, torch.Tensor]]


def by_tensor(weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
    scale = weight.abs().max() / 448
    codes = (weight / scale).to(FP8)
    tensors = {"weight": codes, "weight_scale": scale.reshape(())}
    return tensors | {"input_scale": torch.tensor(INPUT_SCALE)}, codes.float() * scale


def by_channel(weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
    scale = weight.abs().amax(1) / 448
    codes = (weight / scale[:, None]).to(FP8)
    return {"weight": codes, "weight_scale": scale}, codes.float() * scale[:, None]


def by_block(weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
    blocks = weight.unflatten(0, (-1, 16)).unflatten(2, (-1, 8))
    scale = blocks.abs().amax((1, 3), keepdim=True) / 448
    codes = (blocks / scale).to(FP8)
    value = (codes.float() * scale).flatten(2).flatten(0, 1)
    return {"weight": codes.flatten(2).flatten(0, 1), "weight_scale": scale}, value


def nvfp4(weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
    """Round each number to the nearest one that E2M1 has, one at a time."""
    outer = weight.abs().max() / (6 * 448)
    scale = (weight.unflatten(1, (-1, 16)).abs().amax(-1) / (6 * outer)).to(FP8)
    numbers, values = [], []
    for row, scales in zip(weight.tolist(), (scale.float() * outer).tolist(), strict=True):
        for place, x in enumerate(row):
            step = scales[place // 16]
            nearest = min(
                range(8), key=lambda code, x=x, step=step: abs(abs(x) / step - E2M1[code])
            )
            numbers.append(nearest + 8 * (x < 0))
    codes = torch.tensor(numbers, dtype=torch.uint8).view(weight.shape)
    signed = torch.tensor([*E2M1, *(-x for x in E2M1)])
    for place, factor in enumerate((scale.float() * outer).repeat_interleave(16, 1).T):
        values.append(signed[codes[:, place].long()] * factor)
    tensors = {
        "weight": codes[:, 0::2] + 16 * codes[:, 1::2],
        "weight_scale": scale,
        "weight_scale_2": outer.reshape(()),
    }
    return tensors, torch.stack(values, 1)


def nvfp4_with_inputs(weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
    tensors, value = nvfp4(weight)
    return tensors | {"input_scale": torch.tensor(INPUT_SCALE)}, value


# What kernels do to inputs.


def static_fp8(x: torch.Tensor) -> torch.Tensor:
    return (x / INPUT_SCALE).clamp(-448, 448).to(FP8).float() * INPUT_SCALE


def fp8_by_token(x: torch.Tensor) -> torch.Tensor:
    scale = x.abs().amax(-1, keepdim=True) / 448
    return (x / scale).to(FP8).float() * scale


def nvfp4_inputs(x: torch.Tensor) -> torch.Tensor:
    outer = torch.tensor(INPUT_SCALE)
    blocks = x.unflatten(-1, (-1, 16))
    scale = (blocks.abs().amax(-1, keepdim=True) / 6 / outer).to(FP8).float() * outer
    ratio = blocks / scale
    # Ties go to the even code.
    midpoints = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0])
    below, above = (torch.bucketize(ratio.abs(), midpoints, right=side) for side in (False, True))
    code = torch.where(below % 2 == 0, below, above)
    return (torch.tensor(E2M1)[code] * ratio.sign() * scale).flatten(-2)


def as_is(x: torch.Tensor) -> torch.Tensor:
    return x


ALGORITHMS: dict[str, tuple[Quantize, Callable[[torch.Tensor], torch.Tensor]]] = {
    "FP8": (by_tensor, static_fp8),
    "FP8_PER_CHANNEL_PER_TOKEN": (by_channel, fp8_by_token),
    "fp8_pb_wo": (by_block, as_is),
    "NVFP4": (nvfp4_with_inputs, nvfp4_inputs),
    "W4A16_NVFP4": (nvfp4, as_is),
}


def written(
    folder: Path,
    module: PreTrainedModel,
    algorithm: str = "FP8",
    quantize: Callable[[str], Quantize | None] | None = None,
    **quantization: Any,
) -> PreTrainedModel:
    """Write a checkpoint with `hf_quant_config.json`; return the unquantized model with its weights."""
    module.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    choose = quantize or (lambda _: ALGORITHMS[algorithm][0])
    stored, values = {}, {}
    for key, weight in load_file(folder / "model.safetensors").items():
        path = key.removesuffix(".weight")
        rule = choose(path) if path.endswith("_proj") else None
        if rule is None:
            stored[key] = values[key] = weight
            continue
        tensors, values[key] = rule(weight)
        stored |= {f"{path}.{part}": tensor.contiguous() for part, tensor in tensors.items()}
    expected = folder / "expected"
    module.config.save_pretrained(expected)
    save_file(values, expected / "model.safetensors", metadata={"format": "pt"})
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    said = {"quant_algo": algorithm, "kv_cache_quant_algo": None, "exclude_modules": ["lm_head"]}
    facts = {"producer": {"name": "modelopt"}, "quantization": said | quantization}
    (folder / "hf_quant_config.json").write_text(json.dumps(facts))
    return type(module).from_pretrained(expected, dtype=torch.float32).eval()


def say_in_config(folder: Path, **settings: Any) -> None:
    """Let `config.json` say what the newer exports say there."""
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "modelopt", "ignore": ["lm_head"]} | settings
    (folder / "config.json").write_text(json.dumps(config))


def rounding(module: nn.Module, change_input: Callable[[torch.Tensor], torch.Tensor]) -> nn.Module:
    """Let the linear layers of the decoder round their inputs."""
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear) and name.endswith("_proj"):
            layer.register_forward_pre_hook(lambda _, args: (change_input(args[0]),))
    return module


def same(found: torch.Tensor, expected: torch.Tensor) -> bool:
    """Say whether float32 results differ by the order of operations alone."""
    return torch.allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_weights_are_what_the_codes_stand_for(algorithm: str) -> None:
    weight = torch.randn(32, 48, generator=torch.Generator().manual_seed(2))
    tensors, value = ALGORITHMS[algorithm][0](weight)
    found = dequantize_modelopt(tensors, algorithm.upper())
    assert torch.equal(found, value)
    assert 0 < (found - weight).norm() / weight.norm() < 0.2


def test_first_element_is_in_the_lower_half_of_a_byte() -> None:
    tensors = {
        "weight": torch.tensor([[0x21, 0xFE, *[0] * 6]], dtype=torch.uint8),
        "weight_scale": torch.tensor([[2.0]]).to(FP8),
        "weight_scale_2": torch.tensor([0.25]),
    }
    found = dequantize_modelopt(tensors, "NVFP4")
    assert found.tolist() == [[0.25, 0.5, -2.0, -3.0, *[0.0] * 12]]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_logits_are_those_of_the_weights_and_rounded_inputs(tmp_path: Path, algorithm: str) -> None:
    weights_alone = written(tmp_path, small_llama(), algorithm)
    loaded = load(tmp_path)
    theirs = dict(weights_alone.named_parameters())
    for name, parameter in loaded.module.named_parameters():
        assert torch.equal(parameter, theirs[name]), name
    before, round_input = logits(weights_alone), ALGORITHMS[algorithm][1]
    expected = logits(rounding(weights_alone, round_input))
    assert same(logits(loaded.module), expected)
    assert same(before, expected) == (round_input is as_is)
    assert loaded.prequantized is not None
    assert (loaded.prequantized.inputs is None) == (round_input is as_is)


@pytest.mark.parametrize("algorithm", ["FP8", "W4A16_NVFP4"])
def test_mixture_has_one_layer_an_expert(tmp_path: Path, algorithm: str) -> None:
    expected = written(tmp_path, small_mixture(), algorithm)
    round_input = ALGORITHMS[algorithm][1]
    experts: Any = expected.model.layers[0].mlp.experts

    def one_by_one(
        hidden_NH: torch.Tensor, chosen_NK: torch.Tensor, shares_NK: torch.Tensor
    ) -> torch.Tensor:
        rows = []
        for x_H, chosen, shares in zip(hidden_NH, chosen_NK.tolist(), shares_NK, strict=True):
            out_H = torch.zeros_like(x_H)
            for expert, share in zip(chosen, shares, strict=True):
                gate, up = F.linear(round_input(x_H), experts.gate_up_proj[expert]).chunk(2)
                inner = round_input(F.silu(gate) * up)
                out_H = out_H + share * F.linear(inner, experts.down_proj[expert])
            rows.append(out_H)
        return torch.stack(rows)

    before = logits(expected)
    experts.forward = one_by_one
    found = logits(load(tmp_path).module)
    assert same(found, logits(rounding(expected, round_input)))
    assert same(before, found) == (round_input is as_is)


def test_config_and_file_may_both_say_it(tmp_path: Path) -> None:
    written(tmp_path, small_llama())
    file = tmp_path / "hf_quant_config.json"
    expected = logits(load(tmp_path).module)
    say_in_config(tmp_path, quant_algo="FP8")
    assert torch.equal(logits(load(tmp_path).module), expected)
    file.unlink()
    assert torch.equal(logits(load(tmp_path).module), expected)
    file.write_text(json.dumps({"quantization": {"quant_algo": "NVFP4"}}))
    with pytest.raises(ModelError, match=r"must say the same quant_algo, got NVFP4 and FP8"):
        load(tmp_path)


def test_file_of_an_unquantized_model_says_nothing(tmp_path: Path) -> None:
    module = small_llama()
    written(tmp_path, module, quantize=lambda _: None, quant_algo=None)
    loaded = load(tmp_path)
    assert loaded.prequantized is None
    assert torch.equal(logits(loaded.module), logits(module))


def test_layers_may_have_algorithms_of_their_own(tmp_path: Path) -> None:
    def choose(path: str) -> Quantize | None:
        return None if "v_proj" in path else nvfp4 if "mlp" in path else by_channel

    attention = {
        f"model.layers.0.self_attn.{side}_proj": {"quant_algo": "FP8_PER_CHANNEL_PER_TOKEN"}
        for side in "qko"
    }
    mlp = {
        f"model.layers.0.mlp.{part}_proj": {"quant_algo": "W4A16_NVFP4", "group_size": 16}
        for part in ("gate", "up", "down")
    }
    layers = attention | mlp
    expected = written(
        tmp_path,
        small_llama(),
        quantize=choose,
        quant_algo="MIXED_PRECISION",
        quantized_layers=layers,
    )
    for path in attention:
        expected.get_submodule(path).register_forward_pre_hook(
            lambda _, args: (fp8_by_token(args[0]),)
        )
    loaded = load(tmp_path)
    assert same(logits(loaded.module), logits(expected))
    assert "fp8 weights by channel" in loaded.origin
    assert "nvfp4 weights" in loaded.origin
    del layers["model.layers.0.mlp.up_proj"]
    written(
        tmp_path,
        small_llama(),
        quantize=choose,
        quant_algo="MIXED_PRECISION",
        quantized_layers=layers,
    )
    with pytest.raises(
        ModelError, match=r"up_proj must be .*the algorithm None in quantized_layers"
    ):
        load(tmp_path)


def test_cache_is_rounded_by_its_scales(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = written(tmp_path, small_llama(), "W4A16_NVFP4", kv_cache_quant_algo="FP8")
    scales = {"k": 0.02, "v": 0.015}
    change_layer(
        tmp_path,
        "model.layers.0.self_attn",
        **{f"{s}_proj.{s}_scale": torch.tensor(x) for s, x in scales.items()},
    )
    loaded = load(tmp_path)

    def fp8(x: torch.Tensor, scale: float) -> torch.Tensor:
        return (x / scale).clamp(-448, 448).to(FP8).float() * scale

    values: Any = expected.model.layers[0].self_attn.v_proj
    values.register_forward_hook(lambda _, __, out: fp8(out, scales["v"]))
    rotate = modeling_llama.apply_rotary_pos_emb

    def rotated(*args: Any, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
        queries, keys = rotate(*args, **options)
        return queries, fp8(keys, scales["k"])

    found, before = logits(loaded.module), logits(small_llama())
    monkeypatch.setattr(modeling_llama, "apply_rotary_pos_emb", rotated)
    assert same(found, logits(expected))
    assert not same(found, before)
    assert loaded.prequantized is not None
    assert loaded.prequantized.cache


@pytest.mark.parametrize(
    ("algorithm", "scales", "words"),
    [
        ("FP8", {}, "KV cache is not rounded, .* says FP8: the files lack its scales"),
        ("FP8", {"k_proj.k_scale": 1.0}, "lack its scales"),
        (
            "NVFP4",
            {"k_proj.k_scale": 1.0, "v_proj.v_scale": 1.0},
            "says NVFP4: this format is not applied",
        ),
    ],
)
def test_cache_that_stays_in_float_is_said(
    tmp_path: Path, algorithm: str, scales: dict[str, float], words: str
) -> None:
    expected = written(tmp_path, small_llama(), "W4A16_NVFP4", kv_cache_quant_algo=algorithm)
    change_layer(
        tmp_path,
        "model.layers.0.self_attn",
        **{name: torch.tensor(scale) for name, scale in scales.items()},
    )
    loaded = load(tmp_path)
    assert loaded.prequantized is not None
    [warning] = loaded.prequantized.warnings
    assert re.search(words, warning)
    assert loaded.prequantized.cache is None
    assert "KV cache" not in loaded.origin
    assert torch.equal(logits(loaded.module), logits(expected))


@pytest.mark.parametrize(
    ("algorithm", "bits"),
    # A scalar or two for each of the seven layers; 16 elements share 8 bits in NVFP4.
    [("FP8", 8 + 7 * 32 / 7680), ("NVFP4", 4.5 + 7 * 32 / 7680)],
)
def test_facts_say_what_the_files_hold(tmp_path: Path, algorithm: str, bits: float) -> None:
    written(tmp_path, small_llama(), algorithm)
    facts = load(tmp_path).prequantized
    assert facts is not None
    assert facts.method == "modelopt"
    assert facts.num_quantized == 32 * (32 + 16 + 16 + 32) + 3 * 32 * 48 == 7680
    assert facts.bits_per_weight == pytest.approx(bits)


@pytest.mark.parametrize("name", ["NVFP4_AWQ", "W4A16_AWQ", "W8A8_SQ_PER_CHANNEL", "MXFP8"])
def test_other_algorithms_are_refused(tmp_path: Path, name: str) -> None:
    written(tmp_path, small_llama(), quant_algo=name)
    with pytest.raises(ModelError, match=f"must be quantized by one of FP8, .*got {name}"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("algorithm", "tensors", "words"),
    [
        ("FP8", {"q_proj.input_scale": None}, "no input_scale for FP8"),
        ("FP8", {"q_proj.weight_scale": None}, "got no weight_scale"),
        ("FP8", {"q_proj.weight_scale": torch.ones(32)}, r"scales \(32,\) for FP8"),
        ("FP8", {"q_proj.input_scale": torch.ones(2)}, r"input_scale \(2,\), not one number"),
        ("NVFP4", {"q_proj.weight_scale_2": None}, "got no weight_scale_2"),
        ("NVFP4", {"q_proj.weight_scale": torch.ones(32, 1).to(FP8)}, r"scales \(32, 1\)"),
        ("NVFP4", {"q_proj.weight_scale_2": torch.ones(2)}, "2 outer scales"),
        ("W4A16_NVFP4", {"q_proj.input_scale": torch.ones(())}, "got input_scale for W4A16"),
        ("NVFP4", {"q_proj.weight": torch.ones(32, 32).to(FP8)}, "float8_e4m3fn for NVFP4"),
        ("FP8", {"q_proj.weight": torch.ones(2, 16, 32).to(FP8)}, r"codes \(2, 16, 32\)"),
        ("FP8", {"stack": torch.ones(2, 4, 4).to(FP8)}, "got 1 others in .*self_attn.stack"),
        ("FP8", {"q_proj.pre_quant_scale": torch.ones(32)}, "must be of use"),
        ("FP8", {"k_proj.k_scale": torch.ones(())}, "must be of use"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(
    tmp_path: Path, algorithm: str, tensors: dict[str, Any], words: str
) -> None:
    written(tmp_path, small_llama(), algorithm)
    change_layer(tmp_path, "model.layers.0.self_attn", **tensors)
    with pytest.raises(ModelError, match=words):
        load(tmp_path)
