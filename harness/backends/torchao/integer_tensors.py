"""torchao's weight tensors for INT8 and INT4."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from harness.backends.int8_matmul import saturation
from harness.backends.layer import QuantizedLayer
from harness.backends.torchao import packing
from harness.backends.torchao.library import needs_capability, torchao
from harness.backends.torchao.weight_tensor import (
    Span,
    WeightTensor,
    activation_span,
    check_shape,
    torchao_granularity,
)
from harness.formats.integer import Integer
from harness.quant.scale import FloatScale
from harness.quant.schemes.block_scaled import BlockScaled
from harness.quant.tensor import TensorFormat

INT4_GROUPS = {"cpu": (32, 64, 128), "cuda": (32, 64, 128, 256)}
"""Group sizes of the INT4 kernels, by type of device."""


def integer_tensor(
    fmt: BlockScaled,
    element: Integer,
    span: Span,
    activation: TensorFormat | None,
    device: torch.device,
) -> WeightTensor | str | None:
    """Return the tensor for integer weights, why a device has no kernel for it, or None."""
    # Codes are plain signed integers: no zero point, no fraction bits.
    plain = element.signed and element.fraction_bits == 0 and isinstance(fmt.scale, FloatScale)
    if plain and element.bits == 4 and isinstance(span, int) and activation is None:
        return _int4(span, device)
    if plain and element.bits == 8:
        if activation is None:
            return _int8_weight_only(span)
        return _int8_dynamic(span, activation, device)
    return None


def _int8_weight_only(span: Span) -> WeightTensor:
    # A scale per channel can be applied after the matmul; scales of groups cannot.
    how = "weight dequantized" if isinstance(span, int) else "codes widened"
    return WeightTensor(
        name="Int8Tensor",
        matmul=f"torch.mm, {how} at each call",
        config=lambda: torchao("quantization").Int8WeightOnlyConfig(
            granularity=torchao_granularity(span),
            # torchao would change settings of the compiler for the whole process.
            set_inductor_config=False,
        ),
        pack=packing.pack_int8,
        unsupported=partial(check_shape, group=span),
    )


def _int8_dynamic(
    span: Span, activation: TensorFormat, device: torch.device
) -> WeightTensor | str | None:
    tokens = activation_span(activation, "int8")
    # Scales of groups cannot be applied to finished integer sums.
    if tokens is None or isinstance(span, int):
        return None
    if device.type == "cpu" and (reason := saturation(device, _int8_matmul)):
        return reason
    on_cuda = device.type == "cuda"
    return WeightTensor(
        name="Int8Tensor",
        # Rows that torch._int_mm does not take (16 or fewer on CUDA) torchao multiplies in float32
        # without a word.
        matmul="torch._int_mm" + ", torch.matmul in float32 where that refuses" * on_cuda,
        config=lambda: torchao("quantization").Int8DynamicActivationInt8WeightConfig(
            granularity=[torchao_granularity(tokens), torchao_granularity(span)],
            set_inductor_config=False,
        ),
        pack=packing.pack_int8,
        # On CUDA torchao multiplies other sizes on the CPU.
        unsupported=partial(check_shape, multiple=8 if on_cuda else 1),
    )


def _int8_matmul(a_MK: Tensor, b_NK: Tensor) -> Tensor:
    """Return torchao's matmul of INT8 matrices, with scales of 1."""
    sums: Tensor = torchao("kernel").int_scaled_matmul(a_MK, b_NK.t(), torch.ones(len(a_MK), 1))
    return sums


def _int4(size: int, device: torch.device) -> WeightTensor | str:
    # CPU and GPU have packings of their own for the same codes.
    on_cuda = device.type == "cuda"
    if size not in INT4_GROUPS[device.type]:
        groups = INT4_GROUPS[device.type]
        return f"its INT4 kernel for {device.type} takes groups of {groups}, got {size}"
    if on_cuda and (reason := needs_capability(device, (8, 0), "INT4 matmuls")):
        return reason
    return WeightTensor(
        name="Int4TilePackedTo4dTensor" if on_cuda else "Int4OpaqueTensor",
        matmul=f"aten._weight_int4pack_mm{'' if on_cuda else '_for_cpu'}",
        config=partial(_int4_config, size, on_cuda=on_cuda),
        pack=packing.pack_int4_cuda if on_cuda else packing.pack_int4_cpu,
        unsupported=partial(_check_int4, size, on_cuda=on_cuda),
        # The packing cannot be undone: values come out of the kernel, rounded.
        read=packing.read_multiplied,
        columns=packing.sampled_columns,
        rounding=packing.READ_ERROR,
    )


def _int4_config(size: int, *, on_cuda: bool) -> Any:
    if not on_cuda:
        prototype = torchao("prototype.quantization.int4")
        return prototype.PrototypeInt4WeightOnlyConfig(group_size=size, set_inductor_config=False)
    formats = torchao("quantization.quantize_.workflows").Int4PackingFormat
    return torchao("quantization").Int4WeightOnlyConfig(
        group_size=size,
        # The other packings for CUDA need the library mslk.
        int4_packing_format=formats.TILE_PACKED_TO_4D,
        set_inductor_config=False,
    )


def _check_int4(
    size: int, layer: QuantizedLayer, dtype: torch.dtype, *, on_cuda: bool
) -> str | None:
    """Return why the INT4 kernel does not take a layer, or None."""
    # The kernel keeps scales in the type of the model. Finer ones would be rounded.
    scale = layer.weight.scales.planes[0].values
    if not torch.equal(scale.to(dtype).float(), scale):
        kept = str(dtype).removeprefix("torch.")
        return (
            f"scales must be {kept} numbers, which this kernel keeps, got finer ones; "
            "choose a recipe torchao_int4_*"
        )
    if on_cuda:
        return check_shape(layer, dtype, group=size, only=torch.bfloat16)
    return check_shape(layer, dtype, group=size, multiple=16)
