"""Quantization for code that trains or edits modules of torch. No run imports this package.

`linear` has layers that run in float, record ranges, or compute with rounded weights and activations; `ops` has matmuls with
straight-through gradients; `parametrize` keeps a parameter as codes; `fake_quant_ops` repeats the operations of another
repository; `exact_buffers` keeps scales in float32 when a module changes its type.
"""

from harness.nn.linear import PRESETS, FakeQuantLinear, Preset, replace_linears, set_mode
from harness.nn.ops import Cast, ProductFormats, baddbmm, fake_quantize_ste, matmul, qkv
from harness.nn.parametrize import replace_parameter, replace_parameter_prequantized

__all__ = [
    "PRESETS",
    "Cast",
    "FakeQuantLinear",
    "Preset",
    "ProductFormats",
    "baddbmm",
    "fake_quantize_ste",
    "matmul",
    "qkv",
    "replace_linears",
    "replace_parameter",
    "replace_parameter_prequantized",
    "set_mode",
]
