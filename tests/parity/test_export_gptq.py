"""Folders in the GPTQ layout, read by a reader of its published description, in numpy.

The description is that of AutoGPTQ 0.7 (`qlinear_cuda_old.py`, version 1 of the layout): codes of
32 / bits inputs in an int32, zero points less 1, scales by group and output, `g_idx` the group of
each input.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from harness.backends.layer import LayerRule, QuantizedLayer
from harness.errors import UnsupportedRecipe
from harness.export import verify
from harness.export.checkpoint import export
from harness.export.layouts.gptq import Gptq
from harness.export.layouts.layout import Contents
from harness.formats.integer import Integer
from harness.models.loaded import LoadedModel
from harness.models.sources.pretrained import LocalModel
from harness.models.targets.targets import find_targets
from harness.quant.granularity import Granularity
from harness.quant.primitives import encode, fit, quantize
from harness.quant.schemes.affine import Affine
from harness.quant.schemes.block_scaled import BlockScaled
from harness.quant.tensor import TensorFormat
from harness.recipe import QuantRecipe
from harness.recipe import quantize as quantize_model

FACTS = {
    "command": "python -m harness.export",
    "config": {},
    "config_hash": "0" * 64,
    "packages": {"quant-harness": "0"},
}
HALF_STEP_FP16 = 2.0**-11
"""Largest relative error of rounding to float16, above its subnormal numbers."""
IDS = torch.arange(1, 40)[None]
G16 = Granularity(block=(1, 16))
ROW = Granularity(block=(1, -1))


@pytest.fixture(autouse=True)
def _read_back_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child for each export would take minutes."""
    monkeypatch.setattr(verify, "in_child", verify.check_folder)


def symmetric(bits: int, granularity: Granularity) -> BlockScaled:
    return BlockScaled(element=Integer(bits=bits), granularity=granularity)


def affine(bits: int, granularity: Granularity) -> Affine:
    return Affine(element=Integer(bits=bits, narrow=False), granularity=granularity)


FORMATS: dict[str, TensorFormat] = {
    f"{kind.__name__}{bits}_{granularity.name}": kind(bits, granularity)
    for kind in (symmetric, affine)
    for bits in (2, 4, 8)
    for granularity in (G16, ROW)
    # 16 weights under 2 bits often have the zero point 0 and no code left.
    if not (kind is affine and bits == 2 and granularity is G16)
}


def numbers(packed: np.ndarray, bits: int, axis: int) -> np.ndarray:
    """Take int32 words apart along an axis, the lowest bits first."""
    words = packed.view(np.uint32)
    parts = [(words >> (bits * i)) & (2**bits - 1) for i in range(32 // bits)]
    shape = list(packed.shape)
    shape[axis] *= 32 // bits
    return np.stack(parts, axis=axis + 1).reshape(shape).astype(np.int64)


def dequantized(tensors: dict[str, np.ndarray], config: dict[str, Any]) -> np.ndarray:
    """Return the weight `[N, K]` that a GPTQ layer stands for."""
    bits = config["bits"]
    codes_KN = numbers(tensors["qweight"], bits, axis=0)
    zeros_GN = numbers(tensors["qzeros"], bits, axis=1) + 1
    group_K = tensors["g_idx"]
    scales_GN = tensors["scales"].astype(np.float32)
    return ((codes_KN - zeros_GN[group_K]) * scales_GN[group_K]).T.astype(np.float32)


def folder_of(loaded: LoadedModel, chosen: QuantRecipe, out: Path) -> tuple[Any, Any, Any]:
    """Export, and return tensors, configuration and manifest."""
    export(loaded, chosen, Gptq(), out, shard_bytes=10**9, facts=FACTS)
    with safe_open(out / "model.safetensors", framework="np") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    config = json.loads((out / "config.json").read_text())
    return tensors, config, json.loads((out / "quant_harness.json").read_text())


def layer_tensors(tensors: dict[str, np.ndarray], path: str) -> dict[str, np.ndarray]:
    return {k.removeprefix(f"{path}."): v for k, v in tensors.items() if k.startswith(f"{path}.")}


@pytest.mark.parametrize("name", FORMATS)
def test_a_reader_of_the_description_finds_the_weights(
    name: str, tiny: LoadedModel, tmp_path: Path
) -> None:
    fmt = FORMATS[name]
    # 16 codes of 2 bits are a word: 24 outputs of keys and values are no whole number of them.
    few = ("*.k_proj", "*.v_proj") if fmt.element.bits == 2 else ()
    chosen = QuantRecipe(
        name=name,
        rules={"linear": LayerRule(match="*", weight=fmt)},
        skip=("lm_head", "embed_tokens", *few),
    )
    tensors, whole, manifest = folder_of(tiny, chosen, tmp_path / "out")
    config = whole["quantization_config"]
    assert config == json.loads((tmp_path / "out" / "quantize_config.json").read_text())
    assert (config["quant_method"], config["checkpoint_format"]) == ("gptq", "gptq")
    assert config["bits"] == fmt.element.bits
    assert config["group_size"] == (16 if fmt.granularity is G16 else -1)
    assert config["sym"] is name.startswith("symmetric")
    assert config["desc_act"] is False
    assert config["lm_head"] is False
    assert ("dynamic" in config) is bool(few)
    layers = [t for t in find_targets(tiny.module) if f"{t.name}.qweight" in tensors]
    assert len(layers) == 14 - 2 * len(few)
    for target in layers:
        exact = quantize(target.weight.detach(), fmt)
        found = dequantized(layer_tensors(tensors, target.name), config)
        # Codes are exact; a scale is rounded to float16.
        np.testing.assert_allclose(found, exact.dequantize().numpy(), rtol=HALF_STEP_FP16, atol=0)
    assert 0 < manifest["scale_error"] <= HALF_STEP_FP16


@pytest.mark.parametrize("name", ["symmetric4_g16", "affine4_g16", "symmetric8_row"])
def test_the_folder_is_a_model_of_the_harness(name: str, tiny: LoadedModel, tmp_path: Path) -> None:
    chosen = QuantRecipe(name=name, rules={"linear": LayerRule(match="*", weight=FORMATS[name])})
    tensors, whole, _ = folder_of(tiny, chosen, tmp_path / "out")
    again = LocalModel(path=str(tmp_path / "out"), dtype="float32").load(tiny.device)
    for target in find_targets(again.module):
        if f"{target.name}.qweight" in tensors:
            own = layer_tensors(tensors, target.name)
            expected = dequantized(own, whole["quantization_config"])
            assert np.array_equal(target.weight.detach().numpy(), expected), target.name
    quantize_model(tiny, chosen)
    with torch.no_grad():
        ours, theirs = (model.module(IDS).logits.log_softmax(-1) for model in (tiny, again))
    # Each weight is off by at most 2^-11 of itself, through two layers.
    assert float((ours - theirs).abs().mean()) < 0.01


def test_layers_have_the_types_and_shapes_that_engines_make_room_for(
    tiny: LoadedModel, tmp_path: Path
) -> None:
    chosen = QuantRecipe(
        name="int4", rules={"linear": LayerRule(match="*", weight=symmetric(4, G16))}
    )
    tensors, whole, _ = folder_of(tiny, chosen, tmp_path / "out")
    found = layer_tensors(tensors, "model.layers.0.mlp.up_proj")
    assert {key: (value.dtype.name, value.shape) for key, value in found.items()} == {
        "qweight": ("int32", (6, 80)),
        "qzeros": ("int32", (3, 10)),
        "scales": ("float16", (3, 80)),
        "g_idx": ("int32", (48,)),
    }
    assert (found["qzeros"] == 0x77777777).all()
    assert np.array_equal(found["g_idx"], np.arange(48) // 16)
    assert "lm_head.weight" not in tensors
    assert whole["tie_word_embeddings"] is True


def test_codes_are_those_of_the_recipe(tiny: LoadedModel, tmp_path: Path) -> None:
    fmt = symmetric(4, G16)
    chosen = QuantRecipe(name="int4", rules={"linear": LayerRule(match="*", weight=fmt)})
    tensors, _, _ = folder_of(tiny, chosen, tmp_path / "out")
    path = "model.layers.1.self_attn.o_proj"
    ours = quantize(tiny.module.get_submodule(path).weight, fmt).codes.numpy().astype(np.int64)
    # Two's complement of 4 bits, counted from -8.
    assert np.array_equal(numbers(tensors[f"{path}.qweight"], 4, axis=0).T, (ours + 8) % 16)


def test_skipped_layers_of_the_decoder_are_named(tiny: LoadedModel, tmp_path: Path) -> None:
    chosen = QuantRecipe(
        name="int4",
        rules={"linear": LayerRule(match="*", weight=symmetric(4, G16))},
        skip=("lm_head", "embed_tokens", "*.k_proj", "model.layers.0.mlp.down_proj"),
    )
    tensors, whole, _ = folder_of(tiny, chosen, tmp_path / "out")
    config = whole["quantization_config"]
    assert config["dynamic"] == {
        r"-:model\.layers\.\d+\.self_attn\.k_proj$": {},
        r"-:model\.layers\.0\.mlp\.down_proj$": {},
    }
    assert "model.layers.0.mlp.down_proj.weight" in tensors
    assert "model.layers.1.mlp.down_proj.qweight" in tensors


def test_a_quantized_head_is_announced() -> None:
    """The tiny model's vocabulary does not fill words, so that its own head is refused."""
    contents = Contents(
        quantized={"lm_head": LayerRule(match="*", weight=symmetric(4, G16))},
        embedding="model.embed_tokens",
        head="lm_head",
        kept=(),
    )
    assert Gptq().config(contents)["lm_head"] is True


def packed(weight: torch.Tensor, fmt: TensorFormat) -> Any:
    layer = QuantizedLayer(
        name="layer", rule="r", format=fmt, weight=quantize(weight, fmt), rel_error=0.0
    )
    return Gptq().pack(layer)


def test_a_zero_point_of_zero_is_moved_where_a_code_is_left(tiny: LoadedModel) -> None:
    fmt = affine(4, G16)
    weight = torch.randn(8, 32, generator=torch.Generator().manual_seed(0))
    weight[3] = 0  # a row of zeros has the zero point 0
    found = packed(weight, fmt)
    tensors = {key: value.numpy() for key, value in found.tensors.items()}
    values = dequantized(tensors, {"bits": 4})
    np.testing.assert_allclose(
        values, quantize(weight, fmt).dequantize().numpy(), rtol=HALF_STEP_FP16
    )
    assert (numbers(tensors["qzeros"], 4, axis=1) < 15).all()
    assert found.scale_error <= HALF_STEP_FP16


def test_a_zero_point_of_zero_is_refused_where_no_code_is_left() -> None:
    weight = torch.rand(8, 32, generator=torch.Generator().manual_seed(0)) + 0.1
    with pytest.raises(UnsupportedRecipe, match="zero points must be at least 1"):
        packed(weight, affine(4, G16))


def test_scales_beyond_float16_are_refused() -> None:
    weight = torch.randn(8, 32, generator=torch.Generator().manual_seed(0))
    with pytest.raises(UnsupportedRecipe, match="scales must be within float16"):
        packed(weight * 1e-12, symmetric(4, G16))
    with pytest.raises(UnsupportedRecipe, match="scales must be within float16"):
        packed(weight * 1e12, symmetric(4, G16))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((8, 40), "rows must be whole blocks of 16 in a checkpoint, got 40 columns"),
        ((12, 32), "outputs must be a multiple of 8 in the GPTQ layout of 4 bits, got 12"),
    ],
)
def test_shapes_that_cannot_be_packed_are_refused(shape: tuple[int, int], message: str) -> None:
    with pytest.raises(UnsupportedRecipe, match=message):
        packed(torch.randn(shape), symmetric(4, G16))


def test_the_layout_takes_codes_and_scales_from_whoever_chose_them() -> None:
    """As an algorithm does that rounds up where rounding down is nearer."""
    fmt = symmetric(4, G16)
    weight = torch.randn(8, 32, generator=torch.Generator().manual_seed(0))
    chosen = encode(weight + 0.1, fmt, fit(weight, fmt))
    layer = QuantizedLayer(name="layer", rule="r", format=fmt, weight=chosen, rel_error=0.0)
    tensors = {key: value.numpy() for key, value in Gptq().pack(layer).tensors.items()}
    found = dequantized(tensors, {"bits": 4})
    np.testing.assert_allclose(found, chosen.dequantize().numpy(), rtol=HALF_STEP_FP16)
