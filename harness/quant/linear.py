"""Stub."""
from torch import Tensor
from harness.quant.quantize import fake_quantize
from harness.quant.tensor import Scales, TensorFormat
def quantize_activation(x: Tensor, fmt: TensorFormat, scales: Scales | None = None) -> Tensor:
    """Return an activation `[.., K]` rounded to a format, seen as a matrix `[tokens, K]`; same shape and type."""
    return fake_quantize(x.reshape(-1, x.shape[-1]), fmt, scales=scales).view(x.shape)
