"""A random weight in a format, random tokens, and the exact matmul of both."""

import torch
from torch import Tensor

from harness.quant.primitives import quantize
from harness.quant.tensor import QuantizedTensor, TensorFormat

N, K = 80, 48
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
ROUNDING = {torch.float32: 1e-6, torch.bfloat16: 2**-8 + 2**-14, torch.float16: 2**-11 + 2**-14}
"""Half a step of the type that the output is rounded to, with room for sums and digits."""


def stored_weight(fmt: TensorFormat) -> QuantizedTensor:
    return quantize(torch.randn(N, K, generator=torch.Generator().manual_seed(0)), fmt)


def random_bias() -> Tensor:
    return torch.randn(N, generator=torch.Generator().manual_seed(2))


def tokens(dtype: torch.dtype = torch.float32, count: int = 7) -> Tensor:
    """Tokens `[count, K]` of different sizes."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count, K, generator=generator)
    return (x * torch.randn(count, 1, generator=generator).exp()).to(dtype)


def exact_matmul(x: Tensor, stored: QuantizedTensor) -> Tensor:
    return x.double() @ stored.dequantize().double().t()


def largest_error(found: Tensor, exact: Tensor) -> float:
    """Return the largest difference, relative to the largest output of the row."""
    return float(((found.double() - exact).abs() / exact.abs().amax(-1, keepdim=True)).max())
