"""Our codes and scales in the memory layout of torchao's weight tensors (0.18), and the values read back from there.

    Int8Tensor                 qdata int8 [N, K]               scale float32 [N or 1, groups or 1]
    Float8Tensor               qdata float8 [N, K]             scale float32, likewise
    Int4OpaqueTensor           codes + 8, packed by torch      scale and float zero [groups, N, 2] in the type of the model
    Int4TilePackedTo4dTensor   the same, padded to 8 rows and 1024 columns
    MXTensor, NVFP4Tensor      qdata float8, or two codes a byte, the first in the low bits; scales in tiles of 128 x 4

Both INT4 kernels compute `(code - 8) * scale + zero`, so that a symmetric format has the zero 0.
"""

import importlib
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.formats.minifloat import E4M3
from harness.formats.unsigned_float import E8M0
from harness.quant.tensor import QuantizedTensor

INT4_ZERO = 8
SAMPLED_COLUMNS = 128
"""Columns of an INT4 weight that are read back: each costs a product of the whole matrix."""
ROUNDING = {torch.float32: 2.0**-23, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-10}
"""Largest relative error of a value that comes out of a product in some type: the kernel may round the weight, and rounds the
result, each by half a unit in the last place at most."""


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep complaints about libraries for other machines, and about enums, from the terminal."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


@cache
def torchao(module: str) -> ModuleType:
    """Import a module of torchao; ImportError if it is not installed."""
    with _quietly():
        return importlib.import_module(f"torchao.{module}")


def pack_int8(weight: QuantizedTensor, made: Any) -> Mapping[str, Tensor]:  # noqa: ARG001
    """Return the parts of an `Int8Tensor`."""
    return {"qdata": weight.codes.view(torch.int8), "scale": weight.scales.planes[0].values}


def pack_fp8(weight: QuantizedTensor, made: Any) -> Mapping[str, Tensor]:
    """Return the parts of a `Float8Tensor`."""
    codes = weight.codes.view(made.qdata.dtype)
    return {"qdata": codes, "scale": weight.scales.planes[0].values}


def pack_int4_cpu(weight: QuantizedTensor, made: Any) -> Mapping[str, Tensor]:
    """Return the parts of an `Int4OpaqueTensor`."""
    codes = (weight.codes ^ INT4_ZERO).int()
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1)  # noqa: SLF001 - torchao calls it so
    return {"qdata": packed, "scale_and_zero": _scale_and_zero(weight, made.scale_and_zero)}


def pack_int4_cuda(weight: QuantizedTensor, made: Any) -> Mapping[str, Tensor]:
    """Return the parts of an `Int4TilePackedTo4dTensor`."""
    rows, columns = weight.shape
    padding = (0, -columns % 1024, 0, -rows % 8)
    codes = F.pad(weight.codes ^ INT4_ZERO, padding, value=INT4_ZERO)
    pairs = (codes[:, ::2] << 4 | codes[:, 1::2]).contiguous()
    packed = torch.ops.aten._convert_weight_to_int4pack(pairs, 8)  # noqa: SLF001 - torchao calls it so
    return {"qdata": packed, "scale_and_zero": _scale_and_zero(weight, made.scale_and_zero)}


def _scale_and_zero(weight: QuantizedTensor, made: Tensor) -> Tensor:
    """Return scales `[N, groups]` as `[groups, N, 2]`, padded with zeros to the shape that torchao made."""
    scale = weight.scales.planes[0].values.T.to(made.dtype)
    packed = torch.zeros_like(made)
    packed[: scale.shape[0], : scale.shape[1], 0] = scale
    return packed


def pack_mx(weight: QuantizedTensor, made: Any) -> Mapping[str, Tensor]:
    """Return the parts of an `MXTensor`."""
    scale = E8M0.encode(weight.scales.planes[0].values).view(torch.float8_e8m0fnu)
    return {"qdata": _pairs_or_bytes(weight, made.qdata.dtype), "scale": _tiled(scale, made.scale)}


def pack_nvfp4(weight: QuantizedTensor, made: Any) -> Mapping[str, Tensor]:
    """Return the parts of an `NVFP4Tensor`."""
    inner, *outer = weight.scales.planes
    scale = E4M3.encode(inner.values).view(torch.float8_e4m3fn)
    parts = {"qdata": _pairs_or_bytes(weight, made.qdata.dtype), "scale": _tiled(scale, made.scale)}
    return parts | ({"per_tensor_scale": outer[0].values.reshape(())} if outer else {})


def _pairs_or_bytes(weight: QuantizedTensor, dtype: torch.dtype) -> Tensor:
    if weight.element.bits == 8:
        return weight.codes.view(dtype)
    return weight.codes[:, ::2] | weight.codes[:, 1::2] << 4


def _tiled(scale: Tensor, made: Tensor) -> Tensor:
    tiles: Tensor = torchao("prototype.mx_formats.utils").to_blocked(scale)
    return tiles.view(made.shape)


def columns_all(values: Tensor) -> Tensor:
    """Return every column, as `read_dequantized` does."""
    return values


def read_dequantized(weight: Any) -> Tensor:
    """Return the values that torchao's tensor says it has, float32."""
    values: Tensor = weight.dequantize(torch.float32)
    return values


def columns_sampled(values: Tensor) -> Tensor:
    """Return the columns `[N, c]` that `read_multiplied` reads."""
    return values[:, _sample(values.shape[1])]


def read_multiplied(weight: Any) -> Tensor:
    """Return some columns of a tensor that cannot say its values, out of its kernel: products with unit vectors."""
    length = weight.shape[1]
    units = torch.zeros(SAMPLED_COLUMNS, length, dtype=weight.dtype, device=weight.device)
    units[torch.arange(SAMPLED_COLUMNS), _sample(length)] = 1.0
    return F.linear(units, weight).T.float()


def _sample(length: int) -> Tensor:
    return torch.linspace(0, length - 1, SAMPLED_COLUMNS).round().long()
