"""Checkpoints of libraries, or tensors as they write them, against a dequantization done here."""

from pathlib import Path
from typing import Any

import pytest
import torch
from quantized_folders import (
    TENSORS,
    Weights,
    change_tensors,
    check_facts,
    compressed,
    expected_logits,
    library_folder,
    linears,
    llama,
    load,
    logits,
    written,
)
from safetensors.torch import load_file
from torch import nn

from harness.formats.codebook import Codebook
from harness.quant.granularity import Granularity
from harness.quant.primitives import fake_quantize
from harness.quant.schemes.block_scaled import BlockScaled
from harness.quant.schemes.bnb4bit import QLoRAScale
from harness.recipe import QuantRecipe, quantize

pytestmark = pytest.mark.usefixtures("eager")


def rounded(weight: torch.Tensor, bits: int, group: int | None) -> torch.Tensor:
    """Return a weight in symmetric integers of a group or row."""
    blocks = weight.unflatten(-1, (-1, group or weight.shape[-1]))
    scale = blocks.abs().amax(-1, keepdim=True) / (2 ** (bits - 1) - 1)
    return ((blocks / scale).round() * scale).flatten(-2)


class RoundedInputs(nn.Linear):
    """A linear layer that rounds each token to INT8 with a scale of absmax / 127, as vLLM does."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = x.abs().amax(-1, keepdim=True) / 127
        return super().forward((x / scale).round() * scale)


def test_compressed_tensors_in_packed_int4(tmp_path: Path) -> None:
    folder = compressed(tmp_path, 4, 16)
    loaded = load(folder)
    expected = expected_logits(lambda _, weight: rounded(weight, 4, 16))
    torch.testing.assert_close(logits(loaded.module), expected, rtol=1e-5, atol=1e-5)
    check_facts(loaded, folder, kind="fake-quant", bits=(6.0, 6.1))
    assert "int4 weights in groups of 16" in loaded.origin


def test_compressed_tensors_with_int8_inputs(tmp_path: Path) -> None:
    folder = compressed(tmp_path, 8, None)
    loaded = load(folder)
    module = llama()
    for name, layer in linears(module).items():
        layer.weight.data = rounded(layer.weight.data, 8, None)
        layer.__class__ = RoundedInputs
        assert name in dict(loaded.module.named_modules())
    expected = logits(module)
    torch.testing.assert_close(logits(loaded.module), expected, rtol=1e-4, atol=1e-4)
    without = expected_logits(lambda _, weight: rounded(weight, 8, None))
    assert (expected - without).abs().max() > 1e-2
    check_facts(loaded, folder, kind="fake-quant", bits=(8.0, 8.7))
    assert "int8 weights by channel, int8 inputs by token" in loaded.origin


@pytest.mark.parametrize("method", ["nf4", "nf4_dq", "fp4"])
def test_four_bits_of_bitsandbytes(float_folder: Path, tmp_path: Path, method: str) -> None:
    folder = library_folder(float_folder, tmp_path, method)
    loaded = load(folder)
    double = method.endswith("dq")
    fmt = BlockScaled(
        element=Codebook(name=method[:3]),
        granularity=Granularity(block=(1, 64), flat=True),
        scale=QLoRAScale(double_quantization=double),
    )
    expected = expected_logits(lambda _, weight: fake_quantize(weight, fmt))
    # Double quantization on a CPU: the library is now and then one code off the nearest.
    within = 0.05 if double else 1e-5
    torch.testing.assert_close(logits(loaded.module), expected, rtol=0, atol=within)
    check_facts(loaded, folder, kind="real", bits=(4.1, 7.0))
    assert loaded.origin.startswith(f"bitsandbytes checkpoint ({method[:3]} weights")
    assert ("double" in loaded.origin) is double


def test_block_scales_that_bitsandbytes_saves_transposed_are_turned_back(
    float_folder: Path, tmp_path: Path
) -> None:
    """As 0.50.2 saves them after a forward pass on some CPUs: `[K / 64, N]` in bfloat16."""
    folder = library_folder(float_folder, tmp_path, "nf4")
    expected = {}
    for name, layer in linears(llama()).items():
        blocks = layer.weight.detach().view(-1, 64)
        scales = blocks.abs().amax(-1, keepdim=True)
        codes = blocks / scales
        levels = Codebook(name="nf4").values()
        nearest = (codes[..., None] - levels).abs().argmin(-1)
        expected[name] = (levels[nearest] * scales.bfloat16().float()).view(layer.weight.shape)

    def transpose(tensors: Weights) -> None:
        for name, layer in linears(llama()).items():
            key = f"{name}.weight.absmax"
            rows = tensors[key].view(layer.out_features, -1)
            tensors[key] = rows.T.bfloat16().contiguous()

    change_tensors(folder, transpose)
    found = load(folder).module
    for name, layer in linears(found).items():
        weight: Any = layer.weight
        functional = pytest.importorskip("bitsandbytes.functional")
        exact = functional.dequantize_4bit(weight.data, weight.quant_state)
        torch.testing.assert_close(exact.float(), expected[name], rtol=0, atol=1e-6)
    down = linears(found)["model.layers.0.mlp.down_proj"].weight
    assert down.quant_state.absmax.shape == (64 * 2,), "two blocks a row, so that order matters"


@pytest.mark.usefixtures("exact_int_mm")
def test_llm_int8_of_bitsandbytes(float_folder: Path, tmp_path: Path) -> None:
    folder = library_folder(float_folder, tmp_path, "llm_int8")
    loaded = load(folder)
    found = logits(loaded.module)
    expected = expected_logits(lambda _, weight: rounded(weight, 8, None))
    exact = logits(llama())
    assert 0 < (found - exact).norm() < 3 * (expected - exact).norm()
    check_facts(loaded, folder, kind="real", bits=(8.0, 8.7))
    assert "LLM.int8, threshold 6.0" in loaded.origin
    inputs = quantize(loaded, QuantRecipe()).report.input_formats
    assert inputs == {"checkpoint": "int8 by token, features beyond 6.0 in float"}
    warnings = quantize(loaded, QuantRecipe()).warnings
    assert any("LLM.int8" in warning and "batch" in warning for warning in warnings)


def test_int8_of_torchao(float_folder: Path, tmp_path: Path) -> None:
    folder = library_folder(float_folder, tmp_path, "torchao")
    loaded = load(folder)
    found = logits(loaded.module)
    tensors = load_file(folder / TENSORS)

    def dequantized(name: str, _: torch.Tensor) -> torch.Tensor:
        return tensors[f"{name}._weight_qdata"].float() * tensors[f"{name}._weight_scale"]

    torch.testing.assert_close(found, expected_logits(dequantized), rtol=1e-4, atol=1e-4)
    check_facts(loaded, folder, kind="real", bits=(8.0, 9.0))
    assert loaded.origin == "torchao checkpoint (int8 weights by row)"


def fp8_layers(statistic: str, *, tensor: bool) -> tuple[Weights, Weights]:
    """Return FP8 weights with a scale for the tensor or for each row, and what they stand for."""
    tensors, stands_for = {}, {}
    for name, layer in linears(llama()).items():
        weight = layer.weight.detach()
        largest = weight.abs().max().view(1, 1) if tensor else weight.abs().amax(1, keepdim=True)
        scale = largest / 448
        codes = (weight / scale).to(torch.float8_e4m3fn)
        tensors |= {f"{name}.weight": codes, f"{name}.{statistic}": scale}
        stands_for[name] = codes.float() * scale
    return tensors, stands_for


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_fp8_without_a_kernel_is_dequantized_to_the_model_s_type(
    tmp_path: Path, dtype: str
) -> None:
    tensors, stands_for = fp8_layers("weight_scale_inv", tensor=True)
    settings = {
        "quant_method": "fp8",
        "weight_block_size": [128, 128],
        "activation_scheme": "dynamic",
        "modules_to_not_convert": ["lm_head"],
    }
    loaded = load(written(tmp_path, tensors, settings), dtype)
    assert {p.dtype for p in loaded.module.parameters()} == {loaded.dtype}
    for name, layer in linears(loaded.module).items():
        assert torch.equal(layer.weight, stands_for[name].to(loaded.dtype)), name
    expected = (
        "dequantized fp8 checkpoint (fp8 weights in blocks of 128x128, fp8 inputs in groups of 128)"
    )
    assert loaded.origin == expected


def test_fp8_of_compressed_tensors(tmp_path: Path) -> None:
    pytest.importorskip("compressed_tensors")
    tensors, stands_for = fp8_layers("weight_scale", tensor=False)
    numbers = {"num_bits": 8, "type": "float", "strategy": "channel"}
    settings = {
        "quant_method": "compressed-tensors",
        "format": "float-quantized",
        "ignore": ["lm_head"],
        "quantization_status": "compressed",
        "config_groups": {"all": {"targets": ["Linear"], "weights": numbers}},
    }
    loaded = load(written(tmp_path, tensors, settings))
    expected = expected_logits(lambda name, _: stands_for[name])
    torch.testing.assert_close(logits(loaded.module), expected, rtol=1e-5, atol=1e-5)
    check_facts(loaded, tmp_path, kind="fake-quant", bits=(8.0, 9.0))
