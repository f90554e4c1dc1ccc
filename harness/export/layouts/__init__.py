"""Layouts of quantized layers on disk: how codes, scales and settings are stored for readers.

`layout` has the protocol and what layouts of integers share. `gptq` and `compressed_tensors` follow
it; `library_scheme` maps formats to the schemes of the library compressed-tensors.
"""

from harness.export.layouts.compressed_tensors import CompressedTensors
from harness.export.layouts.gptq import Gptq

__all__ = ["CompressedTensors", "Gptq"]
