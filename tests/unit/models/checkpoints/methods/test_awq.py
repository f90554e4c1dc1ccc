"""AWQ's GEMM layout, packed here one number at a time, against an independent dequantization."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from quantized_folders import SMALL, change_layer, load, logits, small_llama, small_mixture
from safetensors.torch import load_file, save_file
from transformers import (
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
)

from harness.errors import ModelError
from harness.models.checkpoints.methods.awq import dequantize_awq
from harness.models.sources.tiny import byte_tokenizer

ORDER = [0, 2, 4, 6, 1, 3, 5, 7]
"""Which output is in the four bits at 0, 4, 8, ... of a word."""
GROUP = 16
SETTINGS = {
    "quant_method": "awq",
    "bits": 4,
    "group_size": GROUP,
    "zero_point": True,
    "version": "gemm",
    "modules_to_not_convert": None,
}
Tensors = dict[str, torch.Tensor]


def mixtral() -> MixtralForCausalLM:
    """A mixture whose files have other names than its parameters: w1, w3 and w2 of each expert."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        experts = {"num_local_experts": 4, "num_experts_per_tok": 2}
        return MixtralForCausalLM(MixtralConfig(**SMALL, **experts)).eval()


def pack(numbers: torch.Tensor) -> torch.Tensor:
    """Return int32 words of eight numbers `[R, 8 W]` each, one number at a time."""
    rows = numbers.tolist()
    words = [
        [
            sum(row[start + output] << (4 * place) for place, output in enumerate(ORDER))
            for start in range(0, len(row), 8)
        ]
        for row in rows
    ]
    signed = [[word - 2**32 if word >= 2**31 else word for word in row] for row in words]
    return torch.tensor(signed, dtype=torch.int32)


def quantize(weight: torch.Tensor, size: int = GROUP) -> tuple[Tensors, torch.Tensor]:
    """Return the tensors of a layer, and what they stand for."""
    groups = weight.unflatten(1, (-1, size))
    low, high = groups.amin(-1), groups.amax(-1)
    scale = ((high - low) / 15).half().float()
    zero = (-low / scale).round().clamp(0, 15)
    codes = (groups / scale[..., None] + zero[..., None]).round().clamp(0, 15)
    value = ((codes - zero[..., None]) * scale[..., None]).flatten(1)
    tensors = {
        "qweight": pack(codes.flatten(1).T.int()),
        "qzeros": pack(zero.T.int()),
        "scales": scale.T.half().contiguous(),
    }
    return tensors, value


def written(
    folder: Path, module: PreTrainedModel, skip: str = "none", **changes: Any
) -> PreTrainedModel:
    """Write an AWQ checkpoint of a model; return the unquantized model that it stands for."""
    module.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    stored, values = {}, {}
    for key, weight in load_file(folder / "model.safetensors").items():
        path = key.removesuffix(".weight")
        if not path.endswith(("_proj", ".w1", ".w2", ".w3")) or skip in key:
            stored[key] = values[key] = weight
            continue
        tensors, values[key] = quantize(weight)
        stored |= {f"{path}.{part}": tensor for part, tensor in tensors.items()}
    expected = folder / "expected"
    module.config.save_pretrained(expected)
    save_file(values, expected / "model.safetensors", metadata={"format": "pt"})
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = SETTINGS | changes
    (folder / "config.json").write_text(json.dumps(config))
    return type(module).from_pretrained(expected, dtype=torch.float32).eval()


@pytest.mark.parametrize("size", [8, 16, 32, -1])
def test_weights_are_what_the_numbers_stand_for(size: int) -> None:
    weight = torch.randn(24, 32, generator=torch.Generator().manual_seed(1))
    tensors, value = quantize(weight, size if size > 0 else 32)
    assert torch.equal(dequantize_awq(tensors, size), value)


def test_every_code_has_its_place() -> None:
    """All codes differ along the outputs of a word, zero points are 0 and scales 1."""
    codes_KN = torch.stack([torch.arange(16), torch.arange(16).flip(0)]).int()
    tensors = {
        "qweight": pack(codes_KN),
        "qzeros": torch.zeros(1, 2, dtype=torch.int32),
        "scales": torch.ones(1, 16, dtype=torch.half),
    }
    assert torch.equal(dequantize_awq(tensors, -1), codes_KN.T.float())
    # The first word of codes 0..7, by hand: the outputs 7 5 3 1 6 4 2 0, the highest bits first.
    assert tensors["qweight"][0, 0] == 0x75316420


@pytest.mark.parametrize("make", [small_llama, small_mixture, mixtral])
def test_logits_are_those_of_the_float_model_with_these_weights(tmp_path: Path, make: Any) -> None:
    expected = written(tmp_path, make())
    loaded = load(tmp_path)
    theirs = dict(expected.named_parameters())
    for name, parameter in loaded.module.named_parameters():
        assert torch.equal(parameter, theirs[name]), name
    assert torch.equal(logits(loaded.module), logits(expected))
    assert not torch.allclose(logits(expected), logits(make()), atol=1e-3)


def test_weights_are_cast_once(tmp_path: Path) -> None:
    expected = written(tmp_path, small_llama())
    theirs = dict(expected.named_parameters())
    for name, parameter in load(tmp_path, "bfloat16").module.named_parameters():
        assert torch.equal(parameter, theirs[name].bfloat16()), name


def test_layers_that_the_files_hold_in_float_stay(tmp_path: Path) -> None:
    expected = written(
        tmp_path, small_llama(), skip="down_proj", modules_to_not_convert=["down_proj"]
    )
    loaded = load(tmp_path)
    assert torch.equal(logits(loaded.module), logits(expected))
    whole = small_llama().model.layers[0].mlp.down_proj.weight
    assert torch.equal(loaded.module.model.layers[0].mlp.down_proj.weight, whole)


def test_facts_say_what_the_files_hold(tmp_path: Path) -> None:
    written(tmp_path, small_llama())
    facts = load(tmp_path).prequantized
    assert facts is not None
    assert facts.method == "awq"
    assert facts.kind == "fake-quant"
    # q, k, v, o of 32 x 32, 16 x 32, 16 x 32, 32 x 32; gate, up and down of 48 x 32.
    assert facts.num_quantized == 32 * (32 + 16 + 16 + 32) + 3 * 32 * 48
    # 4 bits a code, 16 + 4 bits a group.
    assert facts.bits_per_weight == 4 + 20 / GROUP


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"version": "gemv"}, "version gemm, 4 bits and zero points, got version gemv"),
        ({"version": "GEMV_FAST"}, "got version gemv_fast"),
        ({"bits": 8}, "got version gemm, 8 bits"),
        ({"zero_point": False}, "zero_point False"),
        (
            {"group_size": 32},
            "must be in the GEMM layout of AWQ, got shapes that do not fit for groups of 32",
        ),
    ],
)
def test_other_layouts_are_refused(tmp_path: Path, settings: dict[str, Any], words: str) -> None:
    written(tmp_path, small_llama(), **settings)
    with pytest.raises(ModelError, match=words):
        load(tmp_path)


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"qzeros": None}, "q_proj must be .* got no qzeros"),
        ({"scales": None}, "got no scales"),
        ({"qzeros": torch.zeros(2, 8, dtype=torch.int32)}, "shapes that do not fit"),
        ({"qweight": torch.zeros(32, 4)}, r"codes in torch\.float32"),
        ({"act.scales": torch.ones(32)}, r"q_proj\.act must be .* got no qweight, qzeros"),
        ({"pre_scale": torch.ones(32)}, "must be of use"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(
    tmp_path: Path, tensors: dict[str, Any], words: str
) -> None:
    written(tmp_path, small_llama())
    change_layer(tmp_path, "model.layers.0.self_attn.q_proj", **tensors)
    with pytest.raises(ModelError, match=words):
        load(tmp_path)


def test_folder_of_float_weights_is_refused(tmp_path: Path) -> None:
    written(tmp_path, small_llama(), skip="proj")
    with pytest.raises(ModelError, match="must hold packed weights"):
        load(tmp_path)
