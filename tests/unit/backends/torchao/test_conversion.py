"""Our codes in torchao's tensors, beside the tensors that torchao itself makes."""

from typing import Any

import pytest
import torch
from recipe_builders import E4M3, E5M2, blocks, fp8_row
from torch.nn import functional as F

from harness.backends.layer import LayerRule
from harness.backends.torchao import float_tensors
from harness.backends.torchao.activations import TorchaoInput
from harness.backends.torchao.choice import tensor_for
from harness.backends.torchao.conversion import converted_weight, linear_with, made_by_torchao
from harness.backends.torchao.float_tensors import E2M1
from harness.backends.torchao.library import torchao
from harness.backends.torchao.weight_tensor import WeightTensor
from harness.formats.integer import Integer
from harness.quant.primitives import quantize
from harness.quant.scale import FloatScale, PowerOfTwoScale
from harness.quant.schemes.nvfp4 import NVFP4Scale

FULL_INT8 = Integer(bits=8, narrow=False)
TORCHAO_INT8 = FloatScale(reach="half_span", arithmetic="reciprocal", lowest=2.0**-23)
NVFP4 = blocks(E2M1, 1, 16, scale=NVFP4Scale())


@pytest.mark.usefixtures("anywhere")
def test_tensor_is_torchao_s_own_where_the_format_is() -> None:
    for fmt, activation in (
        (blocks(FULL_INT8, scale=TORCHAO_INT8), None),
        (blocks(FULL_INT8, 1, 32, scale=TORCHAO_INT8), None),
        (fp8_row(), None),
        (blocks(E4M3, -1), None),
        (blocks(E4M3, 1, 32), None),
        (blocks(E5M2), None),
        (NVFP4, None),
        (NVFP4, NVFP4),
        (mx(E4M3), mx(E4M3)),
        (mx(E4M3, "rceil"), mx(E4M3, "rceil")),
        (mx(E2M1), mx(E2M1)),
        (mx(E2M1, "even"), mx(E2M1, "even")),
    ):
        # MX takes bfloat16 alone. Elsewhere a bfloat16 weight would have scales of 8 bits.
        is_mx = isinstance(fmt.scale, PowerOfTwoScale)
        weight = numbers(torch.bfloat16 if is_mx else torch.float32)
        tensor = chosen(fmt, activation)
        made = made_by_torchao(linear_with(weight, None), tensor.config())
        ours = converted_weight(tensor, weight, quantize(weight, fmt))
        names, attributes = made.__tensor_flatten__()
        assert ours.__tensor_flatten__() == (names, attributes), fmt.name
        for part in names:
            mine, theirs = (getattr(each, part) for each in (ours, made))
            assert mine.dtype is theirs.dtype
            # Byte by byte: some of these types cannot be compared.
            same = torch.equal(*(x.reshape(-1).view(torch.uint8) for x in (mine, theirs)))
            assert same, (fmt.name, part)
        assert torch.equal(tensor.read(ours), quantize(weight, fmt).dequantize()), fmt.name


def test_int4_differs_from_torchao_s_own_by_its_zero() -> None:
    weight = numbers(torch.float32) + 1.0
    fmt = blocks(Integer(bits=4), 1, 32)
    tensor = chosen(fmt)
    made = made_by_torchao(linear_with(weight, None), tensor.config())
    ours: Any = converted_weight(tensor, weight, quantize(weight, fmt))
    assert (ours.scale_and_zero[..., 1] == 0).all()
    assert (made.scale_and_zero[..., 1] != 0).all()


@pytest.mark.usefixtures("anywhere")
def test_fp8_matmul_is_that_of_the_codes() -> None:
    per_token, whole = (TorchaoInput(kind="fp8", per=per) for per in ("token", "tensor"))  # type: ignore[arg-type]
    w = numbers(torch.bfloat16)
    x = torch.randn(17, 128, generator=torch.Generator().manual_seed(1)).bfloat16()
    for weight, activation in ((fp8_row(), per_token), (blocks(E4M3, -1), whole)):
        codes = quantize(w, weight)
        linear = linear_with(converted_weight(chosen(weight, activation), w, codes), None)
        rounded = quantize(x, activation).dequantize()
        exact = F.linear(rounded.double(), codes.dequantize().double())
        # One rounding of the result.
        assert (linear(x).double() - exact).norm() <= 2.0**-8 * exact.norm(), activation.name


@pytest.fixture
def anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torchao make on this processor what only some GPUs can multiply."""
    monkeypatch.setattr(float_tensors, "needs_capability", lambda *_: None)
    quant_api = torchao("quantization.quant_api")
    monkeypatch.setattr(quant_api, "_check_hardware_support", lambda _: None)
    workflow = torchao("prototype.mx_formats.inference_workflow")
    monkeypatch.setattr(workflow, "is_sm_at_least_100", lambda: True)


def mx(element: Any, rule: Any = "floor") -> Any:
    return blocks(element, 1, 32, scale=PowerOfTwoScale(rule=rule))


def chosen(weight: Any, activation: Any = None) -> WeightTensor:
    rule = LayerRule(match="*", weight=weight, input=activation)
    found = tensor_for(rule, torch.device("cpu"))
    assert isinstance(found, WeightTensor), found
    return found


def numbers(dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(96, 128, generator=torch.Generator().manual_seed(0)).to(dtype)
