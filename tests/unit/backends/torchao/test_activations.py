"""Activations as torchao rounds them at each call, and our format: the same codes and scales."""

import pytest
import torch
from bit_exact import values_of

from harness.backends.torchao.activations import TorchaoInput
from harness.backends.torchao.library import torchao
from harness.formats.overflow import FormatOverflow
from harness.quant.primitives import fake_quantize, quantize

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
PER = {"token": "PerRow", "tensor": "PerTensor"}


@pytest.mark.parametrize(("kind", "tensor"), [("int8", "Int8Tensor"), ("fp8", "Float8Tensor")])
def test_codes_and_scales_are_torchao_s(kind: str, tensor: str) -> None:
    workflows = torchao("quantization.quantize_.workflows")
    for per, granularity in PER.items():
        fmt = TorchaoInput(kind=kind, per=per)  # type: ignore[arg-type]
        for dtype in DTYPES:
            x = numbers(dtype)
            rule = getattr(torchao("quantization"), granularity)()
            theirs = getattr(workflows, tensor).from_hp(x, granularity=rule)
            ours = quantize(x, fmt)
            assert torch.equal(ours.scales.planes[0].values, theirs.scale), (per, dtype)
            assert torch.equal(ours.codes, theirs.qdata.view(torch.uint8)), (per, dtype)
            assert torch.equal(ours.dequantize(), theirs.dequantize(torch.float32)), (per, dtype)
            assert torch.equal(fake_quantize(x, fmt), theirs.dequantize(dtype)), (per, dtype)


def test_the_largest_int8_activation_is_a_tie_that_its_sign_decides() -> None:
    x = torch.tensor([[-3.0, 1.0], [3.0, 1.0]])
    codes = quantize(x, TorchaoInput(kind="int8", per="token")).codes.view(torch.int8)
    assert codes[:, 0].tolist() == [-128, 127]


def test_fp8_token_of_zeros_is_not_a_number_and_an_int8_one_is_zero() -> None:
    zeros = torch.zeros(1, 16)
    fp8 = TorchaoInput(kind="fp8", per="token")
    assert values_of(zeros, fp8).isnan().all()
    with pytest.raises(FormatOverflow, match="got 0, which becomes nan"):
        fake_quantize(zeros, fp8)
    assert (fake_quantize(zeros, TorchaoInput(kind="int8", per="token")) == 0).all()


def test_names_tell_them_apart() -> None:
    names = {TorchaoInput(kind=k, per=p).name for k in ("int8", "fp8") for p in PER}  # type: ignore[arg-type]
    assert names == {
        "int8_token_torchao",
        "int8_tensor_torchao",
        "fp8_token_torchao",
        "fp8_tensor_torchao",
    }


def numbers(dtype: torch.dtype) -> torch.Tensor:
    """Tokens of very different sizes, one with an outlier."""
    x = torch.randn(200, 96, generator=torch.Generator().manual_seed(0))
    x *= torch.logspace(-3, 3, 200)[:, None]
    x[7, 5] = 4000.0
    return x.to(dtype)
