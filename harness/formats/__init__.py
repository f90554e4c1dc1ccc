"""Which numbers exist: element formats, which round float32 to a finite set and give it codes.

`base` defines the protocol `NumberFormat` and the four ways to round. Four files compute their
numbers: `integer`, `minifloat` (FP4 to FP8 and wider), `hif8` (tapered precision) and
`unsigned_float` (scales). `codebook` looks numbers up in a table (NF4, FP4 of bitsandbytes), and
`native` wraps the types of torch. The helpers are `float32` (reading the bits of a float32),
`code_table` (codes by table), `packing` (codes of 1 to 8 bits end to end in bytes) and `overflow`
(an error where a finite number would become infinite).

Every format is a frozen dataclass, so it can be compared, hashed and written in YAML. The formats
of the standards have names here: `E4M3`, `E5M2`, `E3M2`, `E2M3`, `E2M1` for elements, `E8M0` and
`E6M2` for scales. `harness.quant` applies a format to a tensor: scales, blocks, axes.
"""

from harness.formats.base import FloatingFormat, NumberFormat
from harness.formats.codebook import Codebook
from harness.formats.hif8 import HiF8
from harness.formats.integer import Integer
from harness.formats.minifloat import E2M1, E2M3, E3M2, E4M3, E5M2, Minifloat
from harness.formats.native import Native
from harness.formats.packing import pack, unpack
from harness.formats.unsigned_float import E6M2, E8M0, UnsignedFloat

__all__ = [
    "E2M1",
    "E2M3",
    "E3M2",
    "E4M3",
    "E5M2",
    "E6M2",
    "E8M0",
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
