"""Which numbers exist: element formats, each a frozen dataclass that rounds, encodes and decodes float32 exactly.

`base` has the protocol. `integer` and `minifloat` (FP4 to FP8) compute their values, `codebook` (NF4, FP4 of bitsandbytes) looks
them up in a table, `hif8` has tapered precision, `native` is a type of torch, `unsigned_float` holds scales. `code_table` turns
codes into values by lookup, and `packing` puts codes of 1 to 8 bits into bytes. Scales and tensors are the business of
`harness.quant`.
"""

from harness.formats.base import FloatingFormat, NumberFormat
from harness.formats.codebook import Codebook
from harness.formats.hif8 import HiF8
from harness.formats.integer import Integer
from harness.formats.minifloat import Minifloat
from harness.formats.native import Native
from harness.formats.packing import pack, unpack
from harness.formats.unsigned_float import UnsignedFloat

__all__ = [
    "Codebook",
    "FloatingFormat",
    "HiF8",
    "Integer",
    "Minifloat",
    "Native",
    "NumberFormat",
    "UnsignedFloat",
    "pack",
    "unpack",
]
