"""QType descriptors: one string for a whole tensor format, such as `e2m1k8b32c`.

`descriptor` parses the string and builds the format; `block_maxima` is the rounding of scales that one dialect has.
"""

from harness.quant.qtype.block_maxima import BlockMaxima
from harness.quant.qtype.descriptor import Descriptor, QType, QTypeFormat, parse

__all__ = ["BlockMaxima", "Descriptor", "QType", "QTypeFormat", "parse"]
