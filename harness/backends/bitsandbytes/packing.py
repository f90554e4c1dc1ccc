"""Our codes and scales in the memory layout of bitsandbytes' 4-bit layers, and the audit of them.

    codes     two a byte, the first in the high nibble, `[bytes, 1]`
    absmax    one number per block: float32, or with double quantization an 8-bit code of its own
    state2    with double quantization: absmax and table of the outer blocks
    offset    with double quantization: the mean of all absmax, subtracted before they are encoded

A value is `levels[code] * absmax` of its block.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from harness.backends.base import Installed
from harness.backends.bitsandbytes.library import OTHER_VALUES, bitsandbytes
from harness.backends.layer import QuantizedLayer
from harness.quant.schemes.bnb4bit import SMALLEST_DIVISOR, STATISTICS, dynamic_map
from harness.quant.tensor import QuantizedTensor


def packed_codes(codes: Tensor) -> Tensor:
    """Return two codes a byte, the first in the high nibble, uint8 `[bytes, 1]`."""
    flat = codes.flatten()
    # An odd number of codes leaves the low nibble of the last byte 0.
    if flat.numel() % 2:
        flat = torch.cat([flat, flat.new_zeros(1)])
    return ((flat[::2] << 4) | flat[1::2]).unsqueeze(1)


def quant_state(weight: QuantizedTensor, dtype: torch.dtype) -> Any:
    """Return the `QuantState` that bitsandbytes keeps beside the codes: scales and tables.

    `dtype` is the type of the model, to which the weight is dequantized.
    """
    plane = weight.scales.planes[0]
    # A copy: the audit compares these scales with the layer's.
    parts: dict[str, Any] = {"absmax": plane.values.flatten().clone()}
    # Double quantization: the planes hold decoded scales, `unrounded` what codes were made with.
    if (exact := weight.scales.unrounded) is not None:
        parts = _encoded_scales(exact.values.flatten())
    return bitsandbytes("functional").QuantState(
        shape=weight.shape,
        code=torch.tensor(getattr(weight.element, "levels", ()), device=weight.codes.device),
        blocksize=plane.granularity.block[1],
        quant_type=weight.element.name,
        dtype=dtype,
        **parts,
    )


def _encoded_scales(exact: Tensor) -> dict[str, Any]:
    """Return scales as 8-bit codes, with scales of their own and one offset (QLoRA, section 3).

    `QLoRAScale` decodes the same codes, so that real and fake have the same scales.
    """
    # Scales are positive. Without their mean they use both signs of the 8-bit table.
    offset = exact.mean()
    centered = (exact - offset).reshape(1, -1)
    # Blocks of scales are divided by their absmax: the table covers [-1, 1].
    outer = STATISTICS.reduce(centered, lambda blocks, axes: blocks.abs().amax(axes))
    divisor = STATISTICS.aligned(outer).clamp(min=SMALLEST_DIVISOR)
    # bitsandbytes multiplies by the reciprocal; a division would move some codes.
    units = (STATISTICS.blocked(centered) * (1.0 / divisor)).clamp_(-1, 1)
    book = dynamic_map()
    codes = book.encode(book.round(STATISTICS.unblocked(units, centered.shape)))
    state = bitsandbytes("functional").QuantState(
        absmax=outer.flatten(),
        code=torch.tensor(book.levels, device=exact.device),
        blocksize=STATISTICS.block[1],
        dtype=torch.float32,
    )
    return {"absmax": codes.flatten(), "offset": offset, "state2": state}


def inspect_packed(
    kernel: str, packed: Tensor, state: Any, layer: QuantizedLayer, dtype: torch.dtype
) -> Installed:
    """Compare packed codes, as bitsandbytes dequantizes them, with the weight of the fake path."""
    if state is None or packed.dtype != torch.uint8:
        fault = f"packed codes with a quant_state must be in place, got {packed.dtype} and {state}"
        return Installed(kernel=kernel, stored_bytes=packed.nbytes, fault=fault)
    # Its own kernel decodes: packing, tables and scales are checked as they will be read.
    values = bitsandbytes("functional").dequantize_4bit(packed.data, state)
    equal = torch.equal(values, layer.weight.dequantize().to(dtype))
    return Installed(
        kernel=kernel,
        stored_bytes=packed.nbytes + sum(tensor.nbytes for tensor in _tensors(state)),
        fault=None if equal else OTHER_VALUES,
    )


def _tensors(state: Any) -> Iterator[Tensor]:
    """Yield every tensor of a `QuantState`, and of the state of its scales."""
    for part in vars(state).values():
        if isinstance(part, Tensor):
            yield part
        elif isinstance(part, type(state)):
            yield from _tensors(part)
