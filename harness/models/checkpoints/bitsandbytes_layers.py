"""Choose the matmul that 4-bit layers of a bitsandbytes checkpoint run (0.50).

`Linear4bit` dequantizes its codes to the checkpoint's `compute_dtype` and multiplies in that type. On CPUs with AVX512-BF16 it runs another
kernel, which rounds inputs, scales and results to bfloat16 for models of every type, and fails for weights that are not a multiple of its
tiles. Here float32 models dequantize and multiply in float32. Other models take the kernel where the shape of the weight allows it.
"""

from typing import Any

import torch
from torch import nn

TILE = 32
"""The kernel for AVX512-BF16 takes multiples of so many output channels."""


def settle(module: nn.Module, dtype: torch.dtype) -> None:
    """Make the 4-bit layers of a float32 model multiply in float32, and keep those of other models off a kernel that cannot run them."""
    for layer in module.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            _settle(layer, dtype)


def has_layers(module: nn.Module) -> bool:
    """Say whether some layer is one of bitsandbytes."""
    return any(type(layer).__module__.startswith("bitsandbytes") for layer in module.modules())


def _settle(layer: Any, dtype: torch.dtype) -> None:
    if dtype is torch.float32:
        layer.compute_dtype, layer.compute_type_is_set = dtype, True
    state = layer.weight.quant_state
    rows, columns = state.shape
    fits = rows % TILE == 0 and columns % state.blocksize == 0
    if dtype is torch.float32 or not fits:
        layer.support_avx512bf16_for_cpu = False
