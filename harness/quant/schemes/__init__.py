"""Tensor formats that people use: an element format, a granularity, a range and a scale together.

`block_scaled` joins them with one scale for each block: INT8, FP8, MX. Three files have other rules
for its scale: `nvfp4` (E4M3 scales under a float32 scale), `bnb4bit` (bitsandbytes' NF4 and FP4)
and `shared_exponent` (powers of two of few bits, in two levels). `affine` adds a zero point. `hif4`
and `hif4_v12` are the generations of HiFloat, whose three levels of scales are in `hif_levels`.
`unscaled` casts: bf16, fp16, HiF8.
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
