"""How numbers and scales cover a tensor.

    quantize(x, format)        codes and scales
    fake_quantize(x, format)   x rounded to the values of the format
    parse("mxfp4").format()    a format by its QType descriptor

A tensor format answers four questions: which elements share a scale (`granularity`), which range a
block is given (`range`), how the scale of a range is stored (`scale`), and what the result looks
like in memory (`tensor`). `schemes` joins the answers to the formats that people use, and `qtype`
reads formats from one word. `primitives` applies a format to a tensor, piece by piece (`pieces`),
and checks that finite numbers stay finite (`harness.formats.overflow`).
"""

from harness.formats.overflow import FormatOverflow
from harness.quant.granularity import Granularity
from harness.quant.primitives import bits_per_element, encode, fake_quantize, fit, quantize
from harness.quant.qtype import QTypeFormat, parse
from harness.quant.range import AbsMax, MseSearch, Percentile, StaticFormat
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
    "StaticFormat",
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
