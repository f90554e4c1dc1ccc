"""Which of torchao's weight tensors (0.18) holds which format, with what inputs, on which device.

The codes and scales are ours (`torchao_packing`), so that the fake and the real model have the same weights. torchao would
choose them a little otherwise:

    INT8   s = max(absmax / 127.5, 2^-23), codes -128..127, x * (1 / s)        ours: absmax / 127, -127..127, x / s
    INT4   a float zero for each group, codes 0..15                            ours: the zero is 0, codes -7..7
    FP8    s = absmax / max with no smallest scale: a row of zeros is NaN      ours: s >= 2^-126
    in each of them s has the precision of the weight's type: 8 bits in bfloat16

What goes into a product with integers or FP8 is rounded by torchao at each call. The format of such inputs must therefore be
torchao's own, `TorchaoInput`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, Literal

import torch
from torch import Tensor

from harness.backends.layer import LayerRule, QuantizedLayer
from harness.backends.scaled_mm.layers import overflow
from harness.backends.torchao import packing as packing
from harness.backends.torchao.activations import TorchaoInput
from harness.backends.torchao.packing import torchao
from harness.formats.integer import Integer
from harness.formats.minifloat import E2M1, E4M3, E5M2, Minifloat
from harness.quant.granularity import Granularity
from harness.quant.scale import FloatScale, PowerOfTwoScale
from harness.quant.schemes.block_scaled import BlockScaled
from harness.quant.schemes.nvfp4 import NVFP4Scale
from harness.quant.tensor import QuantizedTensor, TensorFormat

Span = Literal["tensor", "row"] | int
"""Which weights share a scale; a number is the size of a group."""
Refusal = Callable[[QuantizedLayer, torch.dtype], str | None]

FLOAT8 = {E4M3: torch.float8_e4m3fn, E5M2: torch.float8_e5m2}
INT4_GROUPS = {"cpu": (32, 64, 128), "cuda": (32, 64, 128, 256)}
OFFERED = (
    "it has int8 and fp8 (tensor, row, group), int4 (symmetric groups of 32, 64 or 128) and nvfp4; with rounded inputs int8 and "
    "fp8 (tensor, row; inputs as in the recipes torchao_*_dynamic*), mxfp8, mxfp4 and nvfp4"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """A weight tensor of torchao's, with what fills and checks it."""

    tensor: str
    """Name of its class."""
    product: str
    """What multiplies, in eager mode."""
    config: Callable[[], Any]
    """Makes the configuration that `quantize_` takes."""
    pack: Callable[[QuantizedTensor, Any], Mapping[str, Tensor]]
    """Returns the parts of the tensor that hold codes and scales, given the one that torchao made."""
    refuse: Refusal
    """Returns why a layer of a model of some type does not fit, or None."""
    read: Callable[[Any], Tensor] = packing.read_dequantized
    """Returns values of the tensor in place."""
    columns: Callable[[Tensor], Tensor] = packing.columns_all
    """Picks the values that `read` returns."""
    rounding: Mapping[torch.dtype, float] | None = None
    """Largest relative error of `read` by type of the model; None where it is exact."""


def choose(rule: LayerRule, device: torch.device) -> Layout | str:
    """Return the tensor for the weights of a rule on a device, or why there is none."""
    if device.type not in ("cpu", "cuda"):
        return f"its kernels are for cpu and cuda, got {device.type}"
    if rule.static_input:
        return "its inputs must have scales of their own at each call here, got static_input=true"
    fmt, given = rule.weight, rule.input
    found: Layout | str | None = None
    if isinstance(fmt, BlockScaled) and (span := _span(fmt)) is not None:
        family = _integer if isinstance(fmt.element, Integer) else _float
        found = family(fmt, span, given, device)
    if found is None:
        inputs = "float inputs" if given is None else f"inputs in {given.name}"
        return f"no weight tensor of torchao holds {fmt.name} for {inputs}; {OFFERED}"
    return found


def _span(fmt: BlockScaled) -> Span | None:
    rows, columns = fmt.granularity.block
    if fmt.granularity.flat or rows not in (1, -1) or (rows == -1) > (columns == -1):
        return None
    if columns == -1:
        return "row" if rows == 1 else "tensor"
    return columns


def _torchao_span(span: Span) -> Any:
    library = torchao("quantization")
    if isinstance(span, int):
        return library.PerGroup(span)
    return library.PerRow() if span == "row" else library.PerTensor()


def _input_span(given: TensorFormat, kind: Literal["int8", "fp8"]) -> Span | None:
    """Return which inputs share a scale if torchao rounds inputs so, else None."""
    if not isinstance(given, TorchaoInput) or given.kind != kind:
        return None
    return "row" if given.per == "token" else "tensor"


def _integer(
    fmt: BlockScaled, span: Span, given: TensorFormat | None, device: torch.device
) -> Layout | str | None:
    element = fmt.element
    assert isinstance(element, Integer)  # noqa: S101 - `choose` looked
    if not (element.signed and element.fraction_bits == 0 and isinstance(fmt.scale, FloatScale)):
        return None
    if element.bits == 4 and isinstance(span, int) and given is None:
        return _int4(span, device)
    if element.bits == 8:
        return _int8_weight_only(span) if given is None else _int8_dynamic(span, given, device)
    return None


def _int8_weight_only(span: Span) -> Layout:
    how = "weight dequantized" if isinstance(span, int) else "codes widened"
    return Layout(
        tensor="Int8Tensor",
        product=f"torch.mm, {how} at each call",
        config=lambda: torchao("quantization").Int8WeightOnlyConfig(
            granularity=_torchao_span(span), set_inductor_config=False
        ),
        pack=packing.pack_int8,
        refuse=partial(_refuse, group=span),
    )


def _int8_dynamic(span: Span, given: TensorFormat, device: torch.device) -> Layout | str | None:
    tokens = _input_span(given, "int8")
    if tokens is None or isinstance(span, int):
        return None
    if device.type == "cpu" and (reason := _overflow(device)):
        return reason
    on_cuda = device.type == "cuda"
    return Layout(
        tensor="Int8Tensor",
        # What torch._int_mm refuses (on CUDA 16 rows or fewer), torchao multiplies in float32 without a word.
        product="torch._int_mm" + ", torch.matmul in float32 where that refuses" * on_cuda,
        config=lambda: torchao("quantization").Int8DynamicActivationInt8WeightConfig(
            granularity=[_torchao_span(tokens), _torchao_span(span)], set_inductor_config=False
        ),
        pack=packing.pack_int8,
        # On CUDA torchao multiplies other sizes on the CPU.
        refuse=partial(_refuse, multiple=8 if on_cuda else 1),
    )


@cache
def _overflow(device: torch.device) -> str | None:
    def multiply(a: Tensor, b: Tensor) -> Tensor:
        product: Tensor = torchao("kernel").int_scaled_matmul(a, b.t(), torch.ones(len(a), 1))
        return product

    return overflow(device, multiply)


def _int4(size: int, device: torch.device) -> Layout | str:
    on_cuda = device.type == "cuda"
    if size not in INT4_GROUPS[device.type]:
        return f"its INT4 kernel for {device.type} takes groups of {INT4_GROUPS[device.type]}, got {size}"
    if on_cuda and (reason := _lacks(device, (8, 0), "INT4 products")):
        return reason
    return Layout(
        tensor="Int4TilePackedTo4dTensor" if on_cuda else "Int4OpaqueTensor",
        product=f"aten._weight_int4pack_mm{'' if on_cuda else '_for_cpu'}",
        config=partial(_int4_config, size, on_cuda=on_cuda),
        pack=packing.pack_int4_cuda if on_cuda else packing.pack_int4_cpu,
        refuse=partial(_refuse_int4, size, on_cuda=on_cuda),
        read=packing.read_multiplied,
        columns=packing.columns_sampled,
        rounding=packing.ROUNDING,
    )


def _int4_config(size: int, *, on_cuda: bool) -> Any:
    if not on_cuda:
        prototype = torchao("prototype.quantization.int4")
        return prototype.PrototypeInt4WeightOnlyConfig(group_size=size, set_inductor_config=False)
    formats = torchao("quantization.quantize_.workflows").Int4PackingFormat
    return torchao("quantization").Int4WeightOnlyConfig(
        group_size=size,
        # The others for CUDA need mslk.
        int4_packing_format=formats.TILE_PACKED_TO_4D,
        set_inductor_config=False,
    )


def _float(
    fmt: BlockScaled, span: Span, given: TensorFormat | None, device: torch.device
) -> Layout | str | None:
    if isinstance(fmt.scale, FloatScale) and fmt.element in FLOAT8:
        return (
            _fp8_weight_only(fmt, span) if given is None else _fp8_dynamic(fmt, span, given, device)
        )
    if isinstance(fmt.scale, PowerOfTwoScale) and span == 32 and given is not None:
        return _mx(fmt, given, device)
    if isinstance(fmt.scale, NVFP4Scale) and span == 16 and fmt.element == E2M1:
        return _nvfp4(fmt.scale, given, device)
    return None


def _fp8_weight_only(fmt: BlockScaled, span: Span) -> Layout:
    assert isinstance(fmt.element, Minifloat)  # noqa: S101 - `_float` looked
    dtype = FLOAT8[fmt.element]
    return Layout(
        tensor="Float8Tensor",
        product="torch.matmul, weight dequantized at each call",
        config=lambda: torchao("quantization").Float8WeightOnlyConfig(
            weight_dtype=dtype, granularity=_torchao_span(span), set_inductor_config=False
        ),
        pack=packing.pack_fp8,
        refuse=partial(_refuse, group=span),
    )


def _fp8_dynamic(
    fmt: BlockScaled, span: Span, given: TensorFormat, device: torch.device
) -> Layout | str | None:
    # torch._scaled_mm takes scales of rows on both sides, or one scale on each.
    if fmt.element != E4M3 or _input_span(given, "fp8") != span:
        return None
    if reason := _lacks(device, (8, 9), "FP8 products"):
        return reason
    return Layout(
        tensor="Float8Tensor",
        product="torch._scaled_mm",
        config=lambda: torchao("quantization").Float8DynamicActivationFloat8WeightConfig(
            granularity=_torchao_span(span),
            # AUTO takes the kernels of mslk where that is installed: what runs must not depend on it.
            kernel_preference=torchao("quantization.quantize_.common").KernelPreference.TORCH,
            set_inductor_config=False,
        ),
        pack=packing.pack_fp8,
        refuse=partial(_refuse, multiple=16, only=torch.bfloat16 if span == "row" else None),
    )


def _mx(fmt: BlockScaled, given: TensorFormat, device: torch.device) -> Layout | str | None:
    elements = {E4M3: torch.float8_e4m3fn, E2M1: torch.float4_e2m1fn_x2}
    if not isinstance(given, BlockScaled) or not isinstance(given.scale, PowerOfTwoScale):
        return None
    dtype, rule = elements.get(fmt.element), given.scale.rule  # type: ignore[call-overload]
    known = replace(fmt, scale=PowerOfTwoScale(rule=rule))
    if dtype is None or given != known or rule in ("nearest", "carry"):
        return None
    # Elsewhere torchao dequantizes both sides, which has the accuracy of the fake path and no speed of its own.
    if reason := _lacks(device, (10, 0), "MX products"):
        return reason
    return Layout(
        tensor="MXTensor",
        product="torch._scaled_mm" if fmt.element == E4M3 else "torch.nn.functional.scaled_mm",
        config=lambda: torchao("prototype.mx_formats").MXDynamicActivationMXWeightConfig(
            activation_dtype=dtype,
            weight_dtype=dtype,
            scaling_mode=torchao("prototype.mx_formats.config").ScaleCalculationMode(rule),
        ),
        pack=packing.pack_mx,
        refuse=partial(_refuse, group=32, only=torch.bfloat16),
    )


def _nvfp4(
    scale: NVFP4Scale, given: TensorFormat | None, device: torch.device
) -> Layout | str | None:
    two_levels, prototype = scale.levels == 2, "prototype.mx_formats"
    known = BlockScaled(
        element=E2M1,
        granularity=Granularity(block=(1, 16)),
        scale=NVFP4Scale(levels=scale.levels),
    )
    if given not in (None, known):
        return None
    if given is not None and (reason := _lacks(device, (10, 0), "NVFP4 products")):
        return reason

    def config() -> Any:
        if given is None:
            return torchao(prototype).NVFP4WeightOnlyConfig(use_dynamic_per_tensor_scale=two_levels)
        return torchao(prototype).NVFP4DynamicActivationNVFP4WeightConfig(
            use_dynamic_per_tensor_scale=two_levels, use_triton_kernel=False
        )

    widened = "torch.nn.functional.linear, weight dequantized at each call"
    return Layout(
        tensor="NVFP4Tensor",
        product=widened if given is None else "torch._scaled_mm",
        config=config,
        pack=packing.pack_nvfp4,
        refuse=partial(_refuse, multiple=16),
    )


def _lacks(device: torch.device, least: tuple[int, int], what: str) -> str | None:
    """Return why a device is too old for a kernel, or None."""
    wanted = f"{what} need a CUDA device of capability {least[0]}.{least[1]} or more"
    if device.type != "cuda":
        return f"{wanted}, got {device.type}"
    major, minor = torch.cuda.get_device_capability(device)
    return None if (major, minor) >= least else f"{wanted}, got {major}.{minor}"


def _refuse(
    layer: QuantizedLayer,
    dtype: torch.dtype,
    *,
    group: Span = "row",
    multiple: int = 1,
    only: torch.dtype | None = None,
) -> str | None:
    """Return why a layer does not fit, by its shape or the type of its model."""
    rows, columns = layer.weight.shape
    if only not in (None, dtype):
        wanted, given = (str(x).removeprefix("torch.") for x in (only, dtype))
        return f"the model must be {wanted} for this kernel, got {given}; set model.dtype={wanted}"
    if isinstance(group, int) and columns % group:
        return f"a row must be whole groups of {group} weights, got {columns} weights; choose another quant.group_size"
    if rows % multiple or columns % multiple:
        return f"rows and columns must be multiples of {multiple} for this kernel, got {rows} x {columns}"
    return None


def _refuse_int4(
    size: int, layer: QuantizedLayer, dtype: torch.dtype, *, on_cuda: bool
) -> str | None:
    """As `_refuse`; and scales must be numbers of the type that the kernel keeps them in."""
    scale = layer.weight.scales.planes[0].values
    if not torch.equal(scale.to(dtype).float(), scale):
        kept = str(dtype).removeprefix("torch.")
        return f"scales must be {kept} numbers, which this kernel keeps, got finer ones; choose a recipe torchao_int4_*"
    if on_cuda:
        return _refuse(layer, dtype, group=size, only=torch.bfloat16)
    return _refuse(layer, dtype, group=size, multiple=16)
