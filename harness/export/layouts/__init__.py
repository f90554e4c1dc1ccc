"""How engines lay quantized layers out on disk: `layout` has the protocol, `gptq` and `compressed_tensors` implement it."""

from harness.export.layouts.compressed_tensors import CompressedTensors
from harness.export.layouts.gptq import Gptq

__all__ = ["CompressedTensors", "Gptq"]
