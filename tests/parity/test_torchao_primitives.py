"""Row and group quantization against torchao's own primitives, run side by side."""

import warnings

import numpy as np
import pytest
import torch

from harness.formats.integer import Integer
from harness.formats.minifloat import E4M3FN
from harness.quant.block_scaled import BlockScaled
from harness.quant.granularity import Granularity

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    primitives = pytest.importorskip("torchao.quantization.quant_primitives")

BLOCKS = {"row": (1, 512), "g64": (1, 64), "g128": (1, 128), "tensor": (48, 512), "2d": (16, 128)}
each_block = pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS.keys())
each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)


def sample(dtype: torch.dtype) -> torch.Tensor:
    """Return normal weights whose rows differ in size."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(48, 512, generator=generator)
    return (x * torch.rand(48, 1, generator=generator)).to(dtype)


@each_block
@each_dtype
def test_fp8_equals_torchao_bit_for_bit(block: tuple[int, ...], dtype: torch.dtype) -> None:
    x = sample(dtype).float()
    scale = primitives._choose_scale_float8(x, block, torch.float8_e4m3fn)
    codes = primitives._quantize_affine_float8(x, scale, torch.float8_e4m3fn)
    values = primitives._dequantize_affine_float8(codes, scale, torch.float32)
    found = BlockScaled(element=E4M3FN(), granularity=Granularity(block=block)).quantize(x)
    assert torch.equal(found.scale.values, scale)
    assert torch.equal(found.codes, codes.view(torch.uint8))
    assert torch.equal(found.dequantize(), values)


@each_block
@each_dtype
def test_int8_equals_torchao_but_for_its_reciprocal(
    block: tuple[int, ...], dtype: torch.dtype
) -> None:
    x = sample(dtype).float()
    scale, zero = primitives.choose_qparams_affine(
        x,
        primitives.MappingType.SYMMETRIC,
        block,
        torch.int8,
        quant_min=-127,
        quant_max=127,
        zero_point_dtype=torch.int32,
    )
    codes = primitives.quantize_affine(x, block, scale, zero, torch.int8, -127, 127)
    found = BlockScaled(element=Integer(bits=8), granularity=Granularity(block=block)).quantize(x)
    assert torch.equal(found.scale.values.flatten(), scale.flatten())
    # torchao rounds x * (1 / scale), the project x / scale. The two quotients are neighboring floats, so a code
    # differs, by one, only where they lie on the two sides of a tie.
    ours, theirs = found.codes.view(torch.int8).numpy(), codes.numpy()
    differences = np.abs(ours.astype(int) - theirs.astype(int))
    assert differences.max() <= 1
    assert differences.mean() < 1e-3
    spread = scale.reshape(48 // block[0], -1).repeat_interleave(block[0], 0)
    spread = spread.repeat_interleave(block[1], 1)
    quotient = (x.double() / spread.double()).numpy()
    np.testing.assert_allclose(np.abs(quotient % 1 - 0.5)[differences > 0], 0, atol=1e-4)
