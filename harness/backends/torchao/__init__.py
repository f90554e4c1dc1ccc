"""torchao: weight-only and dynamic INT8, INT4, FP8, MX and NVFP4, and SmoothQuant.

`layouts` says which recipes torchao has a tensor class for, `packing` puts our codes into such a tensor, `activations` repeats how torchao
rounds activations, `backend` installs the layers, and `smoothquant` moves scales from activations to weights first.
"""

from harness.backends.torchao.activations import TorchaoInput
from harness.backends.torchao.backend import TorchaoBackend
from harness.backends.torchao.smoothquant import TorchaoSmoothQuantBackend

__all__ = ["TorchaoBackend", "TorchaoInput", "TorchaoSmoothQuantBackend"]
