"""Which product the 4-bit layers of a bitsandbytes checkpoint take (0.50).

`Linear4bit` dequantizes its codes to `compute_dtype`, which the checkpoint chooses, and multiplies in it. On CPUs with AVX512-BF16 it
packs the codes anew at the first call, for a kernel that rounds inputs, scales and results to bfloat16 whatever the type of the model, and that
fails for weights that are no whole tiles. So a float32 model is kept off both, and other ones off the kernel where it fails.
"""

from typing import Any

import torch
from torch import nn

TILE = 32
"""Output channels that the kernel for AVX512-BF16 takes at once."""


def settle(module: nn.Module, dtype: torch.dtype) -> None:
    """Let the 4-bit layers of a float32 model multiply in float32, and those of others by whatever product fits their shape."""
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
