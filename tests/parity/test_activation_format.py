"""Rounded activations of checkpoints, against compressed-tensors' own."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from harness.models.activations.activation_format import ActivationFormat

library = pytest.importorskip("compressed_tensors.quantization")
forward = pytest.importorskip("compressed_tensors.quantization.lifecycle.forward")

SCALE, ZERO, OUTER = (
    torch.tensor([0.03]),
    torch.tensor([-5], dtype=torch.int8),
    torch.tensor([700.0]),
)


@pytest.fixture(autouse=True, scope="module")
def eager() -> Iterator[None]:
    """Let the library not compile what it calls a few times."""
    with torch.compiler.set_stance("force_eager"):
        yield


def activations() -> torch.Tensor:
    """Return `[1, tokens, K]` of all sizes, with a block and a token of zeros."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 64, 128, generator=generator) * torch.logspace(-3, 1, 64)[:, None]
    x[0, 0], x[0, 1, :32] = 0, 0
    return x


def theirs(args: dict[str, Any], **stored: torch.Tensor) -> torch.Tensor:
    module = nn.Linear(128, 1)
    module.quantization_status = library.QuantizationStatus.COMPRESSED
    for name, value in stored.items():
        module.register_buffer(f"input_{name}", value)
    found: torch.Tensor = forward.forward_quantize(
        module, activations(), "input", library.QuantizationArgs(**args)
    )
    return found


FLOAT = {"type": "float", "dynamic": True}
MX = FLOAT | {"strategy": "group", "group_size": 32, "scale_dtype": torch.uint8}
NVFP4 = {
    "type": "float",
    "num_bits": 4,
    "strategy": "tensor_group",
    "group_size": 16,
    "dynamic": "local",
    "scale_dtype": torch.float8_e4m3fn,
}


@pytest.mark.parametrize(
    ("args", "stored", "ours"),
    [
        (
            FLOAT | {"num_bits": 8, "strategy": "token"},
            {},
            ActivationFormat(kind="float", bits=8, blocks="token"),
        ),
        (
            FLOAT | {"num_bits": 8, "strategy": "tensor"},
            {},
            ActivationFormat(kind="float", bits=8, blocks="tensor"),
        ),
        (
            FLOAT | {"num_bits": 8, "strategy": "group", "group_size": 64},
            {},
            ActivationFormat(kind="float", bits=8, blocks="group", group_size=64),
        ),
        (
            {"num_bits": 8, "strategy": "token", "dynamic": True, "symmetric": False},
            {},
            ActivationFormat(kind="int", bits=8, blocks="token", symmetric=False),
        ),
        (
            {"num_bits": 8, "strategy": "tensor"},
            {"scale": SCALE},
            ActivationFormat(kind="int", bits=8, blocks="tensor", scale=SCALE),
        ),
        (
            {"num_bits": 8, "strategy": "tensor", "symmetric": False},
            {"scale": SCALE, "zero_point": ZERO},
            ActivationFormat(
                kind="int", bits=8, blocks="tensor", symmetric=False, scale=SCALE, zero_point=ZERO
            ),
        ),
        (
            {"num_bits": 8, "type": "float", "strategy": "tensor"},
            {"scale": SCALE / 100},
            ActivationFormat(kind="float", bits=8, blocks="tensor", scale=SCALE / 100),
        ),
        (
            NVFP4,
            {"global_scale": OUTER},
            ActivationFormat(
                kind="float", bits=4, blocks="group", group_size=16, outer_scale=OUTER
            ),
        ),
        *(
            (
                MX | {"num_bits": bits},
                {},
                ActivationFormat(
                    kind="float", bits=bits, blocks="group", group_size=32, is_mx=True
                ),
            )
            for bits in (4, 6, 8)
        ),
    ],
)
def test_rounded_as_the_library_rounds(
    args: dict[str, Any], stored: dict[str, torch.Tensor], ours: ActivationFormat
) -> None:
    x = activations()
    found, expected = ours(x), theirs(args, **stored)
    # The library's MX scale of a block of zeros is NaN.
    expected = torch.where(x == 0, 0, expected) if ours.symmetric else expected
    assert (expected - x).abs().max() > 0
    torch.testing.assert_close(found, expected, rtol=2.0**-22, atol=1e-9)
    half = ours(x.bfloat16())
    assert half.dtype is torch.bfloat16
    torch.testing.assert_close(half, ours(x.bfloat16().float()).bfloat16(), rtol=0, atol=0)


def test_symmetric_integers_take_the_rule_of_the_kernels() -> None:
    x = activations()
    scale = x.abs().amax(-1, keepdim=True) / 127
    expected = torch.where(scale == 0, 0, (x / scale).round() * scale)
    assert torch.equal(ActivationFormat(kind="int", bits=8, blocks="token")(x), expected)
    half_span = theirs({"num_bits": 8, "strategy": "token", "dynamic": True})
    assert not torch.equal(half_span, expected)


def test_last_group_of_a_token_may_be_short() -> None:
    x = activations()[..., :100]
    found = ActivationFormat(kind="float", bits=8, blocks="group", group_size=64)(x)
    parts = [ActivationFormat(kind="float", bits=8, blocks="token")(p) for p in x.split(64, -1)]
    assert torch.equal(found, torch.cat(parts, -1))
