"""bitsandbytes: `four_bit` (NF4, FP4) and `int8` (LLM.int8())."""

from harness.backends.bitsandbytes.four_bit import BitsandbytesBackend
from harness.backends.bitsandbytes.int8 import BitsandbytesInt8Backend

__all__ = ["BitsandbytesBackend", "BitsandbytesInt8Backend"]
