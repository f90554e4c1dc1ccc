"""torchao's weight tensors for FP8, MX and NVFP4."""

from dataclasses import replace
from functools import partial
from typing import Any

import torch

from harness.backends.torchao import packing
from harness.backends.torchao.library import needs_capability, torchao
from harness.backends.torchao.weight_tensor import (
    Span,
    WeightTensor,
    activation_span,
    check_shape,
    torchao_granularity,
)
from harness.formats.minifloat import E2M1, E4M3, E5M2, Minifloat
from harness.quant.granularity import Granularity
from harness.quant.scale import FloatScale, PowerOfTwoScale
from harness.quant.schemes.block_scaled import BlockScaled
from harness.quant.schemes.nvfp4 import NVFP4Scale
from harness.quant.tensor import TensorFormat

FP8_TYPES = {E4M3: torch.float8_e4m3fn, E5M2: torch.float8_e5m2}
MX_TYPES = {E4M3: torch.float8_e4m3fn, E2M1: torch.float4_e2m1fn_x2}
MX_SPAN, NVFP4_SPAN = 32, 16
"""Block sizes of OCP MX 1.0 and of NVFP4."""
OTHER_RULES = ("nearest", "carry")
"""Scale rules of ours that torchao's MX has not."""


def float_tensor(
    fmt: BlockScaled,
    element: Minifloat,
    span: Span,
    activation: TensorFormat | None,
    device: torch.device,
) -> WeightTensor | str | None:
    """Return the tensor for floating-point weights, why a device has no kernel for it, or None."""
    if isinstance(fmt.scale, FloatScale) and element in FP8_TYPES:
        if activation is None:
            return _fp8_weight_only(FP8_TYPES[element], span)
        return _fp8_dynamic(element, span, activation, device)
    # MX weights are offered with MX activations only.
    if isinstance(fmt.scale, PowerOfTwoScale) and span == MX_SPAN and activation is not None:
        return _mx(fmt, element, activation, device)
    if isinstance(fmt.scale, NVFP4Scale) and span == NVFP4_SPAN and element == E2M1:
        return _nvfp4(fmt.scale, activation, device)
    return None


def _fp8_weight_only(dtype: torch.dtype, span: Span) -> WeightTensor:
    return WeightTensor(
        name="Float8Tensor",
        matmul="torch.matmul, weight dequantized at each call",
        config=lambda: torchao("quantization").Float8WeightOnlyConfig(
            weight_dtype=dtype, granularity=torchao_granularity(span), set_inductor_config=False
        ),
        pack=packing.pack_fp8,
        unsupported=partial(check_shape, group=span),
    )


def _fp8_dynamic(
    element: Minifloat, span: Span, activation: TensorFormat, device: torch.device
) -> WeightTensor | str | None:
    # torch._scaled_mm takes per-channel scales with per-token ones, or one scale on each side.
    if element != E4M3 or activation_span(activation, "fp8") != span:
        return None
    if reason := needs_capability(device, (8, 9), "FP8 matmuls"):
        return reason
    return WeightTensor(
        name="Float8Tensor",
        matmul="torch._scaled_mm",
        config=lambda: torchao("quantization").Float8DynamicActivationFloat8WeightConfig(
            granularity=torchao_granularity(span),
            # AUTO takes the kernels of mslk where that is installed: what runs must not depend on
            # it.
            kernel_preference=torchao("quantization.quantize_.common").KernelPreference.TORCH,
            set_inductor_config=False,
        ),
        pack=packing.pack_fp8,
        unsupported=partial(
            check_shape, multiple=16, only=torch.bfloat16 if span == "row" else None
        ),
    )


def _mx(
    fmt: BlockScaled, element: Minifloat, activation: TensorFormat, device: torch.device
) -> WeightTensor | str | None:
    if not isinstance(activation, BlockScaled) or not isinstance(activation.scale, PowerOfTwoScale):
        return None
    # torchao rounds activations with the elements, blocks and scale rule of its configuration.
    dtype, rule = MX_TYPES.get(element), activation.scale.rule
    known = replace(fmt, scale=PowerOfTwoScale(rule=rule))
    if dtype is None or activation != known or rule in OTHER_RULES:
        return None
    # On older devices torchao dequantizes both sides: the accuracy of the fake path, no speed.
    if reason := needs_capability(device, (10, 0), "MX matmuls"):
        return reason
    return WeightTensor(
        name="MXTensor",
        matmul="torch._scaled_mm" if element == E4M3 else "torch.nn.functional.scaled_mm",
        config=lambda: torchao("prototype.mx_formats").MXDynamicActivationMXWeightConfig(
            activation_dtype=dtype,
            weight_dtype=dtype,
            scaling_mode=torchao("prototype.mx_formats.config").ScaleCalculationMode(rule),
        ),
        pack=packing.pack_mx,
        unsupported=partial(check_shape, group=MX_SPAN, only=torch.bfloat16),
    )


def _nvfp4(
    scale: NVFP4Scale, activation: TensorFormat | None, device: torch.device
) -> WeightTensor | str | None:
    # With two levels the E4M3 scales of blocks have a float32 scale of the tensor above them.
    two_levels = scale.levels == 2
    known = BlockScaled(
        element=E2M1,
        granularity=Granularity(block=(1, NVFP4_SPAN)),
        scale=NVFP4Scale(levels=scale.levels),
    )
    # Weight-only, or both sides in the same format.
    if activation not in (None, known):
        return None
    if activation is not None and (reason := needs_capability(device, (10, 0), "NVFP4 matmuls")):
        return reason

    def config() -> Any:
        library = torchao("prototype.mx_formats")
        if activation is None:
            return library.NVFP4WeightOnlyConfig(use_dynamic_per_tensor_scale=two_levels)
        return library.NVFP4DynamicActivationNVFP4WeightConfig(
            use_dynamic_per_tensor_scale=two_levels, use_triton_kernel=False
        )

    dequantized = "torch.nn.functional.linear, weight dequantized at each call"
    return WeightTensor(
        name="NVFP4Tensor",
        matmul=dequantized if activation is None else "torch._scaled_mm",
        config=config,
        pack=packing.pack_nvfp4,
        unsupported=partial(check_shape, multiple=NVFP4_SPAN),
    )
