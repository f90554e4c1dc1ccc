"""torchao (0.18): weight-only and dynamic INT8, INT4, FP8, MX and NVFP4, and SmoothQuant.

The chapters, in the order in which they build on each other:

    library          imports it, and says which devices have its kernels
    weight_tensor    what is known of one of its weight tensors: how to make, fill and read it
    integer_tensors  the weight tensors for INT8 and INT4
    float_tensors    the weight tensors for FP8, MX and NVFP4
    choice           which of them a rule gets on a device, or why none
    packing          our codes and scales in their memory layouts, and values read back
    activations      a format that rounds activations as torchao does
    conversion       a float layer becomes a torchao layer with our codes; the audit of it
    backend          the backend for all of these
    maxima           the largest activations of each layer on calibration text
    smoothquant      the backend that smooths with them first
"""

from harness.backends.torchao.activations import TorchaoInput
from harness.backends.torchao.backend import TorchaoBackend
from harness.backends.torchao.smoothquant import TorchaoSmoothQuantBackend

__all__ = ["TorchaoBackend", "TorchaoInput", "TorchaoSmoothQuantBackend"]
