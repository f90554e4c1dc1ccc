"""Our codes and scales in the memory layouts of torchao's tensors (0.18), and values read back.

    Int8Tensor                 qdata int8 [N, K], scale float32 [N or 1, groups or 1]
    Float8Tensor               qdata float8 [N, K], scale likewise
    Int4OpaqueTensor           codes + 8, packed by torch; scale and float zero [groups, N, 2] in
                               the type of the model
    Int4TilePackedTo4dTensor   the same, padded to 8 rows and 1024 columns
    MXTensor, NVFP4Tensor      qdata float8, or two codes a byte, the first in the low bits; scales
                               in tiles of 128 x 4

Both INT4 kernels compute `(code - 8) * scale + zero`. A symmetric format has the zero 0.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.backends.torchao.library import torchao
from harness.formats.minifloat import E4M3
from harness.formats.unsigned_float import E8M0
from harness.quant.tensor import QuantizedTensor

INT4_ZERO = 8
"""The code of 0 in torch's INT4 kernels. `code ^ 8` of a two's-complement code adds 8 to it."""
INT4_TILE = {"rows": 8, "columns": 1024}
"""Sizes that the CUDA kernel pads to."""
NUM_SAMPLED = 128
"""Columns of an INT4 weight that are read back: each costs a matmul with the whole weight."""
READ_ERROR = {torch.float32: 2.0**-23, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-10}
"""Largest relative error of a value read through a matmul, by its type. The kernel may round the
weight, and it rounds the result, each by half a unit in the last place at most."""


def pack_int8(weight: QuantizedTensor, made: Any) -> Mapping[str, Tensor]:  # noqa: ARG001
    """Return the inner tensors of an `Int8Tensor`."""
    return {"qdata": weight.codes.view(torch.int8), "scale": weight.scales.planes[0].values}


def pack_fp8(weight: QuantizedTensor, made: Any) -> Mapping[str, Tensor]:
    """Return the inner tensors of a `Float8Tensor`."""
    codes = weight.codes.view(made.qdata.dtype)
    return {"qdata": codes, "scale": weight.scales.planes[0].values}


def pack_int4_cpu(weight: QuantizedTensor, made: Any) -> Mapping[str, Tensor]:
    """Return the inner tensors of an `Int4OpaqueTensor`."""
    # The CPU packs codes 0 .. 15 of one int32 each.
    codes = (weight.codes ^ INT4_ZERO).int()
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1)  # noqa: SLF001 - as torchao
    return {"qdata": packed, "scale_and_zero": _scale_and_zero(weight, made.scale_and_zero)}


def pack_int4_cuda(weight: QuantizedTensor, made: Any) -> Mapping[str, Tensor]:
    """Return the inner tensors of an `Int4TilePackedTo4dTensor`."""
    rows, columns = weight.shape
    # F.pad counts axes from the last one and wants (before, after) for each.
    padding = (0, -columns % INT4_TILE["columns"], 0, -rows % INT4_TILE["rows"])
    codes = F.pad(weight.codes ^ INT4_ZERO, padding, value=INT4_ZERO)
    # Two codes a byte, the first in the high nibble.
    pairs = (codes[:, ::2] << 4 | codes[:, 1::2]).contiguous()
    packed = torch.ops.aten._convert_weight_to_int4pack(pairs, 8)  # noqa: SLF001 - as torchao
    return {"qdata": packed, "scale_and_zero": _scale_and_zero(weight, made.scale_and_zero)}


def _scale_and_zero(weight: QuantizedTensor, made: Tensor) -> Tensor:
    """Return scales `[N, groups]` as `[groups, N, 2]`, padded with zeros to the shape of `made`."""
    scale = weight.scales.planes[0].values.T.to(made.dtype)
    packed = torch.zeros_like(made)
    # The zeros at index 1 of the last axis stay 0.
    packed[: scale.shape[0], : scale.shape[1], 0] = scale
    return packed


def pack_mx(weight: QuantizedTensor, made: Any) -> Mapping[str, Tensor]:
    """Return the inner tensors of an `MXTensor`."""
    scale = E8M0.encode(weight.scales.planes[0].values).view(torch.float8_e8m0fnu)
    return {"qdata": _qdata(weight, made.qdata.dtype), "scale": _tiled(scale, made.scale)}


def pack_nvfp4(weight: QuantizedTensor, made: Any) -> Mapping[str, Tensor]:
    """Return the inner tensors of an `NVFP4Tensor`."""
    inner, *outer = weight.scales.planes
    scale = E4M3.encode(inner.values).view(torch.float8_e4m3fn)
    parts = {"qdata": _qdata(weight, made.qdata.dtype), "scale": _tiled(scale, made.scale)}
    # A second level of scales is one float32 number for the tensor.
    return parts | ({"per_tensor_scale": outer[0].values.reshape(())} if outer else {})


def _qdata(weight: QuantizedTensor, dtype: torch.dtype) -> Tensor:
    """Return 8-bit codes as they are, and two 4-bit codes a byte, the first in the low nibble."""
    if weight.element.bits == 8:
        return weight.codes.view(dtype)
    return weight.codes[:, ::2] | weight.codes[:, 1::2] << 4


def _tiled(scale: Tensor, made: Tensor) -> Tensor:
    """Return scales in the tiles of 128 x 4 that the kernels of Blackwell GPUs read."""
    tiles: Tensor = torchao("prototype.mx_formats.utils").to_blocked(scale)
    return tiles.view(made.shape)


def all_columns(values: Tensor) -> Tensor:
    """Return every column, as `read_dequantized` does."""
    return values


def read_dequantized(weight: Any) -> Tensor:
    """Return the values of a tensor as torchao dequantizes it, float32."""
    values: Tensor = weight.dequantize(torch.float32)
    return values


def sampled_columns(values: Tensor) -> Tensor:
    """Return the columns `[N, c]` that `read_multiplied` reads."""
    return values[:, _sample(values.shape[1])]


def read_multiplied(weight: Any) -> Tensor:
    """Return some columns of a tensor that torchao cannot dequantize: matmuls with unit vectors."""
    length = weight.shape[1]
    # Row i of the result is the column of the weight that unit vector i picks.
    units = torch.zeros(NUM_SAMPLED, length, dtype=weight.dtype, device=weight.device)
    units[torch.arange(NUM_SAMPLED), _sample(length)] = 1.0
    return F.linear(units, weight).T.float()


def _sample(length: int) -> Tensor:
    """Return indices spread evenly over a row; short rows have some of them twice."""
    return torch.linspace(0, length - 1, NUM_SAMPLED).round().long()
