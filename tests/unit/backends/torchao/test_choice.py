"""Which weight tensor of torchao holds which format, on which device, or why none does."""

from typing import Any

import pytest
import torch
from recipe_builders import (
    E4M3,
    INT8,
    blocks,
    fp8_row,
    int8_row,
    quantized_layer,
    saturating_matmul,
)
from torch import nn

from harness.backends.int8_matmul import saturation
from harness.backends.layer import LayerRule
from harness.backends.torchao.activations import TorchaoInput
from harness.backends.torchao.choice import tensor_for
from harness.backends.torchao.float_tensors import E2M1
from harness.backends.torchao.library import torchao
from harness.backends.torchao.weight_tensor import WeightTensor
from harness.formats.integer import Integer
from harness.models.targets.targets import Target
from harness.quant.granularity import Granularity
from harness.quant.scale import PowerOfTwoScale
from harness.quant.schemes.block_scaled import BlockScaled
from harness.quant.schemes.nvfp4 import NVFP4Scale

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
INT8_TOKEN = TorchaoInput(kind="int8", per="token")
FP8_TOKEN = TorchaoInput(kind="fp8", per="token")
FP8_WHOLE = TorchaoInput(kind="fp8", per="tensor")
FP8, FP8_TENSOR = fp8_row(), blocks(E4M3, -1)
MXFP8, MXFP4 = (blocks(element, 1, 32, scale=PowerOfTwoScale()) for element in (E4M3, E2M1))
NVFP4 = blocks(E2M1, 1, 16, scale=NVFP4Scale())


def test_format_that_torchao_has_not_is_named_with_what_it_has() -> None:
    for fmt in (
        blocks(INT8, -1, 1),
        blocks(INT8, 128, 128),
        BlockScaled(element=INT8, granularity=Granularity(block=(1, 64), flat=True)),
        blocks(Integer(bits=6)),
        blocks(Integer(bits=8, fraction_bits=6)),
        blocks(Integer(bits=4)),
        blocks(E2M1),
        MXFP8,
        blocks(E2M1, 1, 32, scale=NVFP4Scale()),
    ):
        found = reason(fmt)
        assert fmt.name in found
        assert "it has int8" in found, fmt.name


@pytest.mark.usefixtures("exact_int_mm")
def test_activations_must_be_what_torchao_rounds_them_to() -> None:
    assert "int8_row" in reason(int8_row(), int8_row())
    assert chosen(int8_row(), INT8_TOKEN).matmul == "torch._int_mm"
    assert "fp8" in reason(int8_row(), FP8_TOKEN)
    assert "g32" in reason(blocks(INT8, 1, 32), INT8_TOKEN)
    whole = TorchaoInput(kind="int8", per="tensor")
    static = LayerRule(match="*", weight=int8_row(), input=whole, static_input=True)
    assert "static" in str(tensor_for(static, CPU))


def test_int4_groups_are_those_of_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    def int4(size: int) -> BlockScaled:
        return blocks(Integer(bits=4), 1, size)

    assert "got 256" in reason(int4(256))
    owner = nn.Linear(64, 24)
    owner.weight.data.fill_(7.0)
    narrow = quantized_layer(Target(name="layer", owner=owner, attribute="weight"), int4(32))
    on_cpu = chosen(int4(32))
    assert "multiples of 16" in (on_cpu.unsupported(narrow, torch.float32) or "")
    capability(monkeypatch, 8, 0)
    on_gpu = chosen(int4(64), device=CUDA)
    assert on_gpu.unsupported(narrow, torch.bfloat16) is None
    assert "must be bfloat16" in (on_gpu.unsupported(narrow, torch.float32) or "")
    assert chosen(int4(256), device=CUDA).name == "Int4TilePackedTo4dTensor"
    capability(monkeypatch, 7, 5)
    assert "8.0 or more, got 7.5" in reason(int4(64), device=CUDA)


def test_matmuls_that_need_tensor_cores_are_unsupported_below_their_capability(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for weight, activation, least in (
        (FP8, FP8_TOKEN, (8, 9)),
        (FP8_TENSOR, FP8_WHOLE, (8, 9)),
        (MXFP8, MXFP8, (10, 0)),
        (MXFP4, MXFP4, (10, 0)),
        (NVFP4, NVFP4, (10, 0)),
    ):
        needed = f"capability {least[0]}.{least[1]} or more, got cpu"
        assert needed in reason(weight, activation), weight.name
        capability(monkeypatch, *least)
        assert "scaled_mm" in chosen(weight, activation, CUDA).matmul, weight.name
        capability(monkeypatch, least[0] - 1, 9 if least[1] == 0 else 0)
        assert "or more, got" in reason(weight, activation, CUDA), weight.name


def test_per_channel_and_per_tensor_scales_of_fp8_do_not_mix(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    capability(monkeypatch, 9, 0)
    assert "no weight tensor" in reason(FP8, FP8_WHOLE, CUDA)
    assert "no weight tensor" in reason(FP8_TENSOR, FP8_TOKEN, CUDA)


def test_other_devices_are_unsupported() -> None:
    assert "got meta" in reason(int8_row(), device=torch.device("meta"))


def test_processor_whose_int8_matmul_saturates_is_unsupported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def saturating(a: torch.Tensor, b: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return saturating_matmul(a, b.t()) * scale

    monkeypatch.setattr(torchao("kernel"), "int_scaled_matmul", saturating)
    saturation.cache_clear()
    try:
        assert "saturates" in reason(int8_row(), INT8_TOKEN)
    finally:
        saturation.cache_clear()


def chosen(weight: Any, activation: Any = None, device: torch.device = CPU) -> WeightTensor:
    found = tensor_for(LayerRule(match="*", weight=weight, input=activation), device)
    assert isinstance(found, WeightTensor), found
    return found


def reason(weight: Any, activation: Any = None, device: torch.device = CPU) -> str:
    found = tensor_for(LayerRule(match="*", weight=weight, input=activation), device)
    assert isinstance(found, str), found
    return found


def capability(monkeypatch: pytest.MonkeyPatch, major: int, minor: int) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (major, minor))
