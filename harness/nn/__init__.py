"""Quantization for code that trains or edits modules of torch. No run imports this package.

`fake_quant_linear` is a linear layer that computes with rounded weights and activations; `linear`
puts it into a model in place. `ops` has rounding and matmuls whose gradients go straight through
the rounding. `parametrize` stores any parameter of a module as packed codes. `fake_quant_ops`
reproduces the formats and gradients of the repository of that name, and `exact_buffers` keeps
scales in float32 when a module changes its type.
"""

from harness.nn.fake_quant_linear import FakeQuantLinear
from harness.nn.linear import PRESETS, Preset, replace_linears, set_mode
from harness.nn.ops import Cast, MatmulFormats, baddbmm, fake_quantize_ste, matmul, qkv
from harness.nn.parametrize import replace_parameter, replace_parameter_prequantized

__all__ = [
    "PRESETS",
    "Cast",
    "FakeQuantLinear",
    "MatmulFormats",
    "Preset",
    "baddbmm",
    "fake_quantize_ste",
    "matmul",
    "qkv",
    "replace_linears",
    "replace_parameter",
    "replace_parameter_prequantized",
    "set_mode",
]
