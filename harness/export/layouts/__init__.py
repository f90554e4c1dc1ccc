"""Layouts of quantized layers on disk. `layout` is their protocol."""

from harness.export.layouts.compressed_tensors import CompressedTensors
from harness.export.layouts.gptq import Gptq

__all__ = ["CompressedTensors", "Gptq"]
