"""How numbers and scales cover a tensor: `quantize(x, format)` gives codes and scales, `fake_quantize(x, format)` rounded values.

A tensor format answers four questions, each in a file of its own: which elements share a scale (`granularity`), which range a
block is given (`range`), how the scale of a range is stored (`scale`), and what the result looks like in memory (`tensor`).
`schemes/` joins the answers to the formats that people use: integers, MX, NVFP4, NF4, HiFloat. `qtype/` parses descriptors such
as `e2m1k8b32c` and the names `mxfp4`, `nvfp4`, `hif4`. `primitives` applies a format to a tensor: axes, padding, memory.
`overflow` refuses finite numbers that a format would make infinite.
"""

from harness.quant.granularity import Granularity
from harness.quant.overflow import FormatOverflow
from harness.quant.primitives import bits_per_element, encode, fake_quantize, fit, quantize
from harness.quant.qtype import QTypeFormat, parse
from harness.quant.range import AbsMax, MseSearch, Percentile
from harness.quant.scale import FloatScale, PowerOfTwoScale
from harness.quant.schemes import (
    Affine,
    BlockScaled,
    FloatZero,
    HiF,
    HiFv12,
    NVFP4Scale,
    QLoRAScale,
    SharedExponent,
    Unscaled,
    shared_microexponents,
)
from harness.quant.tensor import QuantizedTensor, ScalePlane, Scales, TensorFormat

__all__ = [
    "AbsMax",
    "Affine",
    "BlockScaled",
    "FloatScale",
    "FloatZero",
    "FormatOverflow",
    "Granularity",
    "HiF",
    "HiFv12",
    "MseSearch",
    "NVFP4Scale",
    "Percentile",
    "PowerOfTwoScale",
    "QLoRAScale",
    "QTypeFormat",
    "QuantizedTensor",
    "ScalePlane",
    "Scales",
    "SharedExponent",
    "TensorFormat",
    "Unscaled",
    "bits_per_element",
    "encode",
    "fake_quantize",
    "fit",
    "parse",
    "quantize",
    "shared_microexponents",
]
