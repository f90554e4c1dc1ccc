"""Quantized folders whose files contradict config.json: one error, with the layer's name."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from harness.errors import ModelError
from harness.models.activations.activation_format import ActivationFormat
from harness.models.checkpoints.methods.schemes import scheme
from harness.models.sources.pretrained import LocalModel
from harness.models.sources.tiny import byte_tokenizer

Tensors = dict[str, torch.Tensor]
Settings = dict[str, Any]
Damage = Callable[[Tensors, Settings], object]

DOWN = "model.layers.0.mlp.down_proj"
N, K, SIZE = 64, 96, 32
GROUPS = K // SIZE
IN_ORDER = torch.arange(K, dtype=torch.int32) // SIZE


def packed(codes: torch.Tensor) -> torch.Tensor:
    """Return numbers of 4 bits `[R, 8 W]`, eight in an int32, the lowest first."""
    shifted = codes.long().view(len(codes), -1, 8) << torch.arange(0, 32, 4)
    return shifted.sum(-1).to(torch.int32)


def layer(kind: str) -> Tensors:
    """Return the tensors of `DOWN`."""
    draws = torch.Generator().manual_seed(0)
    codes = torch.randint(-7, 8, (N, K), generator=draws)
    zeros = torch.randint(-4, 5, (N, GROUPS), generator=draws, dtype=torch.int8)
    scale = torch.rand(N, GROUPS, generator=draws) / 100 + 0.01
    shape = torch.tensor([N, K])
    if kind == "gptq":
        return {
            "qweight": packed(codes + 8).T.contiguous(),
            "qzeros": packed(torch.full((GROUPS, N), 7)),
            "scales": scale.T.half().contiguous(),
            "g_idx": IN_ORDER.clone(),
        }
    if kind == "int4":
        return {"weight_packed": packed(codes + 8), "weight_scale": scale, "weight_shape": shape}
    if kind == "zeros":
        return {
            "weight_packed": packed(codes + 8),
            "weight_scale": scale,
            "weight_shape": shape,
            "weight_zero_point": zeros,
        }
    if kind == "fp8":
        return {
            "weight": (codes / 8).to(torch.float8_e4m3fn),
            "weight_scale": scale[:, :1].contiguous(),
        }
    if kind == "nvfp4":
        return {
            "weight_packed": packed(codes + 8).view(torch.uint8),
            "weight_scale": torch.rand(N, K // 16, generator=draws).to(torch.float8_e4m3fn),
            "weight_global_scale": torch.tensor([100.0]),
        }
    return {"weight": codes.to(torch.int8), "weight_scale": scale[:, :1].contiguous()}


WEIGHTS: dict[str, Settings] = {
    "int4": {"num_bits": 4, "type": "int", "strategy": "group", "group_size": SIZE},
    "zeros": {
        "num_bits": 4,
        "type": "int",
        "strategy": "group",
        "group_size": SIZE,
        "symmetric": False,
    },
    "int8": {"num_bits": 8, "type": "int", "strategy": "channel"},
    "fp8": {"num_bits": 8, "type": "float", "strategy": "channel"},
    "nvfp4": {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16},
}


def settings(kind: str) -> Settings:
    if kind == "gptq":
        return {
            "quant_method": "gptq",
            "bits": 4,
            "group_size": SIZE,
            "desc_act": False,
            "sym": True,
        }
    group = {"targets": [f"re:{re.escape(DOWN)}$"], "weights": WEIGHTS[kind]}
    return {"quant_method": "compressed-tensors", "config_groups": {"group_0": group}, "ignore": []}


@pytest.fixture(scope="module")
def float_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("float")
    config = LlamaConfig(
        vocab_size=261,
        hidden_size=N,
        intermediate_size=K,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def written(float_folder: Path, folder: Path, kind: str, damage: Damage) -> Path:
    """Write a checkpoint with one quantized layer, damaged."""
    shutil.copytree(float_folder, folder, dirs_exist_ok=True)
    tensors, said = layer(kind), settings(kind)
    said = json.loads(json.dumps(said))  # one of its own
    damage(tensors, said)
    whole = load_file(folder / "model.safetensors")
    del whole[f"{DOWN}.weight"]
    whole |= {f"{DOWN}.{part}": tensor.contiguous() for part, tensor in tensors.items()}
    save_file(whole, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": said}))
    return folder


def load(folder: Path) -> torch.nn.Module:
    source = LocalModel(path=str(folder), dtype="float32")
    return source.load(torch.device("cpu")).module


def nothing(_: Tensors, __: Settings) -> None:
    pass


@pytest.mark.parametrize("kind", ["gptq", *WEIGHTS])
def test_undamaged_layers_load(float_folder: Path, tmp_path: Path, kind: str) -> None:
    module = load(written(float_folder, tmp_path, kind, nothing))
    assert module.get_submodule(DOWN).weight.shape == (N, K)


def args(said: Settings) -> Settings:
    weights: Settings = said["config_groups"]["group_0"]["weights"]
    return weights


def put(part: str, tensor: torch.Tensor) -> Damage:
    return lambda t, _: t.update({part: tensor})


def say(**changes: Any) -> Damage:
    return lambda _, s: (s if s["quant_method"] == "gptq" else args(s)).update(changes)


def too_wide(tensors: Tensors, said: Settings) -> None:
    tensors["weight"][0, 0] = 100
    args(said)["num_bits"] = 4


SHUFFLED = IN_ORDER[torch.randperm(K, generator=torch.Generator().manual_seed(0))]
UNEQUAL = (torch.arange(K, dtype=torch.int32) // 40).clamp(max=GROUPS - 1)


@pytest.mark.parametrize(
    ("kind", "damage", "reason"),
    [
        ("int4", lambda t, _: t.pop("weight_scale"), "no weight_scale"),
        ("int8", lambda t, _: t.pop("weight_scale"), "no weight_scale"),
        ("int8", too_wide, "integers from -7 to 100 where there are 4 bits"),
        ("fp8", say(num_bits=4), "codes of 8 bits, not of 4"),
        ("int4", put("weight_global_scale", torch.tensor([2.0])), "beside one scale a group"),
        ("nvfp4", put("weight_global_scale", torch.ones(N)), "64 numbers in weight_global_scale"),
        ("zeros", put("weight_zero_point", torch.full((N, GROUPS), 20).char()), "from 20 to 20"),
        ("zeros", lambda t, _: t.update(weight_zero_point=t["weight_zero_point"].T), "scales"),
        ("int4", put("weight_g_idx", SHUFFLED), "unless config.json says actorder: group"),
        ("int4", put("weight_g_idx", UNEQUAL), "g_idx that is not groups of 32"),
        ("int4", put("weight_g_idx", IN_ORDER[:50]), "g_idx that is not groups of 32"),
        ("gptq", say(group_size=16), "g_idx that is not groups of 16"),
        ("gptq", say(bits=8), "codes of 4 bits where config.json says 8"),
        ("gptq", put("g_idx", SHUFFLED), "desc_act false"),
        ("gptq", put("g_idx", UNEQUAL), "g_idx that is not groups of 32"),
        ("gptq", say(checkpoint_format="gptq_v2"), "zero points that are not 8"),
        ("gptq", put("qzeros", packed(torch.full((GROUPS, N), 8))), "zero points that are not 8"),
    ],
)
def test_what_files_and_settings_disagree_on_is_refused(
    float_folder: Path, tmp_path: Path, kind: str, damage: Damage, reason: str
) -> None:
    with pytest.raises(ModelError, match=reason) as error:
        load(written(float_folder, tmp_path, kind, damage))
    assert f"layer {DOWN} " in str(error.value)


def test_order_of_activations_and_layers_of_their_own_are_no_damage(
    float_folder: Path, tmp_path: Path
) -> None:
    def ordered(tensors: Tensors, said: Settings) -> None:
        tensors["g_idx"] = SHUFFLED
        said["desc_act"] = True

    def own(_: Tensors, said: Settings) -> None:
        said |= {"bits": 8, "dynamic": {rf"+:{DOWN}": {"bits": 4}}}

    load(written(float_folder, tmp_path / "ordered", "gptq", ordered))
    load(written(float_folder, tmp_path / "own", "gptq", own))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda s: s.update(ignore=["re:*["]), r"regular expressions after re:, got 're:\*\['"),
        (
            lambda s: s["config_groups"]["group_0"].update(targets=["re:(q"]),
            "expressions after re:",
        ),
        (
            lambda s: s["config_groups"]["group_0"].update(targets="Linear"),
            "Input should be a valid",
        ),
        (
            lambda s: s.update(config_groups=[]) or s.update(config_groups=[1]),
            "an object of groups",
        ),
    ],
)
def test_damaged_config_groups_are_one_line(
    float_folder: Path, tmp_path: Path, change: Callable[[Settings], object], reason: str
) -> None:
    folder = written(float_folder, tmp_path, "int4", lambda _, said: change(said))
    with pytest.raises(ModelError, match=reason) as error:
        load(folder)
    assert "\n" not in str(error.value)


def test_static_scales_of_activations_are_numbers_above_0() -> None:
    for value in (float("nan"), float("inf"), 0.0, -1.0):
        with pytest.raises(ValueError, match="stored scale of activations that is not finite"):
            ActivationFormat(kind="int", bits=8, blocks="tensor", scale=torch.tensor([value]))


def test_scale_of_a_cache_that_is_no_number_is_named(float_folder: Path, tmp_path: Path) -> None:
    def damage(_: Tensors, said: Settings) -> None:
        said["kv_cache_scheme"] = {"num_bits": 8, "type": "float", "strategy": "tensor"}

    folder = written(float_folder, tmp_path, "int4", damage)
    path = "model.layers.0.self_attn"
    tensors = load_file(folder / "model.safetensors")
    tensors |= {f"{path}.k_scale": torch.ones(1), f"{path}.v_scale": torch.full((1,), torch.nan)}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=rf"not finite and above 0 as {path}.v_scale"):
        load(folder)


def test_stale_file_of_modelopt_beside_float_weights_is_named(
    float_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(float_folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "hf_quant_config.json").write_text('{"quantization": {"quant_algo": "FP8"}}')
    with pytest.raises(ModelError, match=r"float weights alone .* remove its hf_quant_config.json"):
        load(tmp_path)


def test_scheme_by_name_is_recorded_by_name() -> None:
    said = {"quant_method": "compressed-tensors", "config_groups": {"W8A8": ["Linear"]}}
    assert scheme(said) == "W8A8"
