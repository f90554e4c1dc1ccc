"""The exact matmul of INT8 matrices, and a test whether a processor has one.

A dot product of K INT8 codes needs 32 bits: K * 128 * 128 fits for K up to 131,071. Processors
without 8-bit dot products (AVX512-VNNI) may add pairs of products in 16 bits instead, and such sums
saturate at 32,767. The result then is wrong without any error, so every backend that multiplies
INT8 codes asks `saturation` first.
"""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

LEAST_ROWS_ON_GPU = 17
"""`torch._int_mm` takes no fewer rows on CUDA."""
EXTREME_CODES = ((-128, -128), (-128, 127), (127, 127))
"""Pairs of codes with the products of largest magnitude, of either sign."""


def int_mm(a_MK: Tensor, b_NK: Tensor) -> Tensor:
    """Return the exact matmul `a b^T` of INT8 matrices, int32 `[M, N]`."""
    rows = len(a_MK)
    # Rows of zeros fill up a short activation, and are cut off the result.
    if a_MK.device.type == "cuda" and rows < LEAST_ROWS_ON_GPU:
        a_MK = F.pad(a_MK, (0, 0, 0, LEAST_ROWS_ON_GPU - rows))
    sums: Tensor = torch._int_mm(a_MK, b_NK.t())  # noqa: SLF001 - torch has no public name for it
    return sums[:rows]


@cache
def saturation(
    device: torch.device, multiply: Callable[[Tensor, Tensor], Tensor] = int_mm
) -> str | None:
    """Return what is wrong with the INT8 matmul of a device, or None if it is exact.

    Args:
        device: Where to multiply.
        multiply: The matmul of a library: takes INT8 `[M, K]` and `[N, K]`, returns `[M, N]`.
    """
    # Rows enough for every kernel, and sums of many terms: each pair of products may saturate.
    rows, terms, columns = 32, 4096, 16
    for a, b in EXTREME_CODES:
        left = torch.full((rows, terms), a, dtype=torch.int8, device=device)
        right = torch.full((columns, terms), b, dtype=torch.int8, device=device)
        # In int64: the sum of all results does not fit into int32.
        found, exact = int(multiply(left, right).long().sum()), a * b * rows * terms * columns
        if found != exact:
            return (
                f"matmuls of INT8 codes must be exact, got {found} instead of {exact} for {a} "
                f"times {b} on this processor, which saturates their sums; choose a recipe with "
                "float activations, or its fake-quantized form"
            )
    return None
