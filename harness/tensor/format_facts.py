"""Facts about a format: size, range, precision, special values, source.

Range, precision and special values are those of the element, before scales multiply it. The size
counts codes and scales of a matrix of `SHAPE`.
"""

import math
from dataclasses import dataclass

import torch

from harness.formats.base import FloatingFormat, NumberFormat
from harness.formats.hif8 import HiF8
from harness.formats.integer import Integer
from harness.formats.native import TYPES, Native
from harness.quant.primitives import bits_per_element
from harness.quant.scale import PowerOfTwoScale
from harness.quant.schemes.unscaled import Unscaled
from harness.quant.tensor import TensorFormat

SHAPE = (4096, 4096)

ELEMENT_SOURCES = {
    "fp32": "IEEE 754",
    "fp16": "IEEE 754",
    "bf16": "bfloat16",
    "fp8_e4m3fn": "OCP OFP8 1.0",
    "fp8_e5m2": "OCP OFP8 1.0",
    "fp6_e3m2": "OCP MX 1.0",
    "fp6_e2m3": "OCP MX 1.0",
    "fp4_e2m1": "OCP MX 1.0",
    "nf4": "QLoRA (arXiv 2305.14314)",
    "fp4": "bitsandbytes",
    "hif8": "arXiv 2409.16626",
}
"""Name of an element -> document that defines it."""
SCHEME_SOURCES = {
    "HiF": "arXiv 2602.11287",
    "HiFv12": "fake_quant_ops",
    "QTypeFormat": "fake_quant_ops",
    "FloatZero": "torchao",
    "NVFP4Scale": "NVIDIA NVFP4 (2025)",
    "QLoRAScale": "QLoRA (arXiv 2305.14314)",
    "floor": "OCP MX 1.0",
    "rceil": "NVIDIA",
    "nearest": "torchao",
    "carry": "fake_quant_ops",
}
"""Class of a tensor format or of its scale, or rule of a power-of-two scale -> document."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """One row of the listing."""

    name: str
    element: str
    granularity: str
    bits_per_element: float
    """Scales included, for a matrix of `SHAPE` [bit]."""
    smallest: float
    """The smallest magnitude above zero."""
    largest: float
    """The largest finite magnitude."""
    precision: str
    specials: str
    source: str


def facts(fmt: TensorFormat) -> Facts:
    """Return the facts about a format."""
    smallest, largest = magnitudes(fmt.element)
    return Facts(
        name=fmt.name,
        element=fmt.element.name,
        granularity="none" if isinstance(fmt, Unscaled) else fmt.granularity.name,
        bits_per_element=bits_per_element(fmt, SHAPE),
        smallest=smallest,
        largest=largest,
        precision=precision(fmt.element),
        specials=specials(fmt.element),
        source=source(fmt),
    )


def magnitudes(element: NumberFormat) -> tuple[float, float]:
    """Return the smallest magnitude above zero, subnormals included, and the largest finite one."""
    if isinstance(element, Native):
        info = _info(element)
        return info.smallest_normal * info.eps, info.max
    values = element.values().abs()
    return float(values[values > 0].min()), float(values.max())


def precision(element: NumberFormat) -> str:
    """Return the mantissa bits, the step of a uniform grid, or the number of levels."""
    if isinstance(element, Integer):
        return f"step {element.step:g}"
    if isinstance(element, HiF8):
        return "3 to 0 mantissa bits"
    if isinstance(element, Native):
        return _mantissa(-round(math.log2(_info(element).eps)))
    if isinstance(element, FloatingFormat):
        return _mantissa(element.mantissa_bits)
    return f"{len(element.values())} levels"


def specials(element: NumberFormat) -> str:
    """Return which of NaN and infinity have a code, or `none`."""
    if isinstance(element, Native):
        return "NaN, Inf"
    decoded = element.decode(torch.arange(2**element.bits, dtype=torch.uint8))
    found = ["NaN"] * bool(decoded.isnan().any()) + ["Inf"] * bool(decoded.isinf().any())
    return ", ".join(found) or "none"


def source(fmt: TensorFormat) -> str:
    """Return the documents that a format follows, or the module that defines it."""
    scale = getattr(fmt, "scale", None)
    scheme = scale.rule if isinstance(scale, PowerOfTwoScale) else type(scale or fmt).__name__
    found = (ELEMENT_SOURCES.get(fmt.element.name), SCHEME_SOURCES.get(scheme))
    return "; ".join(dict.fromkeys(part for part in found if part)) or type(fmt).__module__


def _mantissa(bits: int) -> str:
    return f"{bits} mantissa bit{'' if bits == 1 else 's'}"


def _info(element: Native) -> torch.finfo:
    return torch.finfo(TYPES[element.name][0])
