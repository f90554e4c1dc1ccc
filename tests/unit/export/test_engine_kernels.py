"""Which kernel runs which layer: the conditions of vLLM, on shapes of well-known models."""

import pytest
import torch

from harness.backends.layer import LayerRule
from harness.export.engine_kernels import fitting, kernel_warnings
from harness.export.layouts.layout import Contents
from harness.formats.integer import Integer
from harness.formats.minifloat import Minifloat
from harness.quant.granularity import Granularity
from harness.quant.scale import PowerOfTwoScale
from harness.quant.schemes.affine import Affine
from harness.quant.schemes.block_scaled import BlockScaled
from harness.quant.tensor import TensorFormat

E4M3 = Minifloat(exponent_bits=4, mantissa_bits=3, specials="nan")
BF16, FP16 = torch.bfloat16, torch.float16


def groups(bits: int, size: int) -> BlockScaled:
    return BlockScaled(element=Integer(bits=bits), granularity=Granularity(block=(1, size)))


def fp8(*block: int) -> BlockScaled:
    return BlockScaled(element=E4M3, granularity=Granularity(block=block))  # type: ignore[arg-type]


def names(
    fmt: TensorFormat,
    shape: tuple[int, int],
    device: str,
    *,
    dtype: torch.dtype = BF16,
    is_rounded: bool = False,
) -> set[str]:
    rule = LayerRule(match="*", weight=fmt, input=fmt if is_rounded else None)
    return {kernel.name for kernel in fitting(rule, shape, dtype, device)}


def test_smollm2_has_no_four_bit_kernel_in_bfloat16() -> None:
    # q_proj [N, K] = [576, 576]: 576 % 128 = 64, and 576 % 128 outputs for Machete.
    assert names(groups(4, 64), (576, 576), "GPU") == set()
    assert names(groups(4, 64), (576, 576), "GPU", dtype=FP16) == {"ExLlama"}
    assert names(groups(4, 64), (576, 576), "CPU") == {"CPU INT4"}


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((4096, 4096), {"Marlin", "Machete (Hopper)"}),
        ((64, 128), {"Marlin"}),
        ((128, 64), {"Machete (Hopper)"}),
        ((32, 128), set()),
        ((64, 64), set()),
    ],
)
def test_shapes_of_four_bits(shape: tuple[int, int], expected: set[str]) -> None:
    assert names(groups(4, 64), shape, "GPU") == expected


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (-1, {"Marlin", "Machete (Hopper)"}),
        (32, {"Marlin"}),
        (128, {"Marlin", "Machete (Hopper)"}),
        (16, set()),
        (256, set()),
    ],
)
def test_group_sizes_of_four_bits(size: int, expected: set[str]) -> None:
    assert names(groups(4, size), (4096, 4096), "GPU") == expected


def test_what_a_cpu_multiplies() -> None:
    shape = (4096, 4096)
    assert names(groups(8, -1), shape, "CPU") == set(), "weight-only INT8"
    assert names(fp8(1, -1), shape, "CPU") == set(), "weight-only FP8"
    assert names(groups(8, -1), shape, "CPU", is_rounded=True) == {"CPU INT8"}
    assert names(fp8(1, -1), shape, "CPU", is_rounded=True) == {"CPU FP8"}
    zeros = Affine(element=Integer(bits=4, signed=False), granularity=Granularity(block=(1, 64)))
    assert names(zeros, shape, "CPU") == {"CPU INT4"}
    assert names(groups(4, 64), (4096, 48), "CPU") == set(), "inputs in steps of 32"


def test_blocks_of_fp8() -> None:
    shape = (4096, 4096)
    assert names(fp8(128, 128), shape, "GPU", is_rounded=True) == {"CUTLASS FP8"}
    assert names(fp8(64, 64), shape, "GPU", is_rounded=True) == set()
    assert names(fp8(1, 128), shape, "GPU", is_rounded=True) == set(), "groups of a row"
    assert names(groups(4, -1), shape, "CPU") == {"CPU INT4"}
    tensor = BlockScaled(element=Integer(bits=4), granularity=Granularity(block=(-1, -1)))
    assert names(tensor, shape, "CPU") == set()


def test_a_warning_names_a_layer_its_shape_and_the_conditions() -> None:
    rule = LayerRule(match="*", weight=groups(4, 64))
    contents = Contents(
        quantized={"a.q_proj": rule, "a.down_proj": rule, "embed": rule},
        embedding="embed",
        head="lm_head",
        kept=(),
    )
    shapes = {"a.q_proj": (576, 576), "a.down_proj": (576, 1536), "embed": (9, 9)}
    (line,) = kernel_warnings(contents, shapes, BF16)
    assert line.startswith(
        "vLLM on a GPU has no kernel for 1 layers of int4_g64, such as a.q_proj (576, 576) in "
        "bfloat16: Marlin needs N % 64 == 0, K % 128 == 0, scales per-channel or in groups of 32, "
        "64, 128"
    )
    assert "ExLlama needs" in line
    assert kernel_warnings(contents, shapes, FP16) == ()


def test_weights_that_no_kernel_of_a_device_takes_are_told_so() -> None:
    rule = LayerRule(match="*", weight=groups(8, -1))
    contents = Contents(quantized={"q": rule}, embedding="e", head="h", kept=())
    (line,) = kernel_warnings(contents, {"q": (4096, 4096)}, BF16)
    assert line.startswith("vLLM on a CPU has no kernel for 1 layers of int8_row")
    assert "there is none for these weights with unquantized activations" in line


def test_formats_that_the_table_does_not_know_make_no_noise() -> None:
    mx = BlockScaled(element=E4M3, granularity=Granularity(block=(1, 32)), scale=PowerOfTwoScale())
    rule = LayerRule(match="*", weight=mx)
    contents = Contents(quantized={"q": rule}, embedding="e", head="h", kept=())
    assert kernel_warnings(contents, {"q": (7, 7)}, BF16) == ()
