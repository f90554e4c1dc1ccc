"""What is known of one weight tensor of torchao: how to make, fill, check and read it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from harness.backends.layer import QuantizedLayer
from harness.backends.torchao import packing
from harness.backends.torchao.activations import TorchaoInput
from harness.backends.torchao.library import torchao
from harness.quant.schemes.block_scaled import BlockScaled
from harness.quant.tensor import QuantizedTensor, TensorFormat

Span = Literal["tensor", "row"] | int
"""Which numbers share a scale: the whole tensor, a row, or a group of so many in a row."""
ShapeCheck = Callable[[QuantizedLayer, torch.dtype], str | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightTensor:
    """One tensor class of torchao for one format, kind of activation and device."""

    name: str
    """Name of the class, such as `Int8Tensor`."""
    matmul: str
    """What multiplies in eager mode; part of the record."""
    config: Callable[[], Any]
    """Makes the configuration that `quantize_` takes."""
    pack: Callable[[QuantizedTensor, Any], Mapping[str, Tensor]]
    """Returns the inner tensors for codes and scales, given the tensor that torchao made."""
    unsupported: ShapeCheck
    """Returns why a layer of a model of some type does not fit, or None."""
    read: Callable[[Any], Tensor] = packing.read_dequantized
    """Returns values of the tensor in place."""
    columns: Callable[[Tensor], Tensor] = packing.all_columns
    """Picks from a weight the columns that `read` returns."""
    rounding: Mapping[torch.dtype, float] | None = None
    """Largest relative error of `read`, by type of the model; None where it is exact."""


def span_of(fmt: BlockScaled) -> Span | None:
    """Return which weights share a scale, or None for blocks that no torchao tensor has."""
    rows, columns = fmt.granularity.block
    # Flat blocks, blocks of several rows, per-column scales.
    if fmt.granularity.flat or rows not in (1, -1) or (rows == -1) > (columns == -1):
        return None
    if columns == -1:
        return "row" if rows == 1 else "tensor"
    return columns


def activation_span(fmt: TensorFormat, kind: Literal["int8", "fp8"]) -> Span | None:
    """Return which activations share a scale, or None for formats that torchao does not have."""
    if not isinstance(fmt, TorchaoInput) or fmt.kind != kind:
        return None
    return "row" if fmt.per == "token" else "tensor"


def torchao_granularity(span: Span) -> Any:
    """Return torchao's object for a span."""
    library = torchao("quantization")
    if isinstance(span, int):
        return library.PerGroup(span)
    return library.PerRow() if span == "row" else library.PerTensor()


def check_shape(
    layer: QuantizedLayer,
    dtype: torch.dtype,
    *,
    group: Span = "row",
    multiple: int = 1,
    only: torch.dtype | None = None,
) -> str | None:
    """Return why a kernel does not take a layer, or None.

    Args:
        layer: The quantized layer.
        dtype: Type of the model.
        group: Span of the scales; rows must be whole groups.
        multiple: Both sizes must be multiples of it.
        only: The one type of the model that the kernel takes; None is any.
    """
    rows, columns = layer.weight.shape
    # The type first: it is wrong for the whole model, not for this layer.
    if only not in (None, dtype):
        wanted, found = (str(x).removeprefix("torch.") for x in (only, dtype))
        return f"the model must be {wanted} for this kernel, got {found}; set model.dtype={wanted}"
    if isinstance(group, int) and columns % group:
        return (
            f"a row must be whole groups of {group} weights, got {columns} weights; "
            "choose another quant.group_size"
        )
    if rows % multiple or columns % multiple:
        return (
            f"rows and columns must be multiples of {multiple} for this kernel, "
            f"got {rows} x {columns}"
        )
    return None
