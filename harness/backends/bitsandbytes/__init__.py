"""bitsandbytes: NF4 and FP4 in its 4-bit layers, and LLM.int8().

The chapters, in the order in which they build on each other:

    library        imports it, says why it cannot run, and has what both backends share
    packing        our codes and scales in the memory layout of its 4-bit layers, and the audit
    four_bit       the backend for NF4 and FP4 in linear layers
    expert_stacks  the same for stacks of experts, which it keeps packed as parametrizations
    int8           the backend for LLM.int8()
"""

from harness.backends.bitsandbytes.four_bit import BitsandbytesBackend
from harness.backends.bitsandbytes.int8 import BitsandbytesInt8Backend

__all__ = ["BitsandbytesBackend", "BitsandbytesInt8Backend"]
