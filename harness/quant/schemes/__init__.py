"""Tensor formats that people use, joined from elements, granularity, range and scale.

`block_scaled` is one scale a block (INT8, FP8, MX); `affine` adds a zero point; `nvfp4` has two levels of scales, `bnb4bit` those
of bitsandbytes, `hif4` and `hif4_v12` three levels of HiFloat; `shared_exponent` is a block of integers under one exponent;
`unscaled` casts.
"""

from harness.quant.schemes.affine import Affine, FloatZero
from harness.quant.schemes.block_scaled import BlockScaled
from harness.quant.schemes.bnb4bit import QLoRAScale
from harness.quant.schemes.hif4 import HiF
from harness.quant.schemes.hif4_v12 import HiFv12
from harness.quant.schemes.nvfp4 import NVFP4Scale
from harness.quant.schemes.shared_exponent import SharedExponent, shared_microexponents
from harness.quant.schemes.unscaled import Unscaled

__all__ = [
    "Affine",
    "BlockScaled",
    "FloatZero",
    "HiF",
    "HiFv12",
    "NVFP4Scale",
    "QLoRAScale",
    "SharedExponent",
    "Unscaled",
    "shared_microexponents",
]
