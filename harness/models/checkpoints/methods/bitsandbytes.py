"""Mend what transformers 5.23 and bitsandbytes 0.50 get wrong in bitsandbytes checkpoints.

1. A missing `nested_absmax` (double quantization) goes unnoticed and makes wrong weights.
2. After a forward pass on a CPU with bfloat16 instructions, bitsandbytes 0.50.2 saves the scales of
   blocks transposed, as bfloat16.
3. `Linear4bit` dequantizes its codes to the checkpoint's `compute_dtype` and multiplies in this
   type. On a CPU with AVX512-BF16 it runs another kernel. The kernel rounds activations, scales and
   results to bfloat16 for models of every type, and fails for weights that are no multiple of its
   tiles. Here, float32 models dequantize and multiply in float32; other models use the kernel where
   the shape of the weight allows it.
"""

from collections.abc import Collection
from typing import Any

import torch
from torch import nn

TILE = 32
"""The AVX512-BF16 kernel needs a multiple of this many outputs."""


def missing_statistics(stored: Collection[str]) -> set[str]:
    """Return the names of `nested_absmax` tensors that must be stored, and are not (1)."""
    nested = [key for key in stored if key.endswith(".nested_quant_map")]
    needed = {f"{key.removesuffix('.nested_quant_map')}.nested_absmax" for key in nested}
    return needed - set(stored)


def restore_block_scales(module: nn.Module) -> None:
    """Bring scales `[K / block, N]` back into the order of codes, float32 `[N K / block]` (2)."""
    for layer in module.modules():
        state = getattr(getattr(layer, "weight", None), "quant_state", None)
        if state is not None and state.absmax.dim() == 2:
            state.absmax = state.absmax.T.reshape(-1).float()


def has_layers(module: nn.Module) -> bool:
    """Return whether some layer is one of bitsandbytes."""
    return any(type(layer).__module__.startswith("bitsandbytes") for layer in module.modules())


def settle_matmuls(module: nn.Module, dtype: torch.dtype) -> None:
    """Choose the matmul of every 4-bit layer for a model of a type (3)."""
    for layer in module.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            _settle(layer, dtype)


def _settle(layer: Any, dtype: torch.dtype) -> None:
    if dtype is torch.float32:
        layer.compute_dtype, layer.compute_type_is_set = dtype, True
    state = layer.weight.quant_state
    rows, columns = state.shape
    fits = rows % TILE == 0 and columns % state.blocksize == 0
    if dtype is torch.float32 or not fits:
        layer.support_avx512bf16_for_cpu = False
