"""LLM.int8() in the layers of bitsandbytes (0.50; Dettmers et al. 2022, section 3.2).

How it works
    Features of the activation with outliers are multiplied in float, all others in INT8:

        y = (q_w q_x^T) * s_w * s_x + W' X_o      INT8 weights per-channel, activations per-token

    1. A feature is an outlier (o) if any token of the batch reaches `threshold` in it.
    2. Outliers are taken out of X before it is rounded. The scale of a token is the absmax of its
       other features, over 127.
    3. Outliers are multiplied in the model's type, with their dequantized weights W'.

How it differs from w8a8
    w8a8 rounds every feature. LLM.int8() is nearer to the unquantized model, and its result depends
    on which tokens share a batch.

Why it has no tolerance
    It promises no equality with a fake path. On SmolLM2-135M (480 tokens, float32) it is
    0.25 nat/token from fake w8a8, which itself is 0.25 from the unquantized model. Its KL
    divergence from the unquantized model is 0.030 nat/token, that of w8a8 is 0.048. With
    `threshold=0` it is w8a8 but for activations that pass through float16, and still 0.25 away: a
    change in the last place moves a few codes, and after some layers the rounding errors are
    different ones of the same size. Layer by layer it is exact (see the tests).
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from harness.backends.base import Installed, install
from harness.backends.bitsandbytes.library import (
    OTHER_VALUES,
    as_installed,
    bitsandbytes,
    not_installed,
    unsupported_by_library,
)
from harness.backends.int8_matmul import saturation
from harness.backends.layer import LayerRule, QuantizedLayer
from harness.backends.probe import Operands
from harness.errors import UnsupportedRecipe
from harness.formats.integer import Integer
from harness.models.checkpoints.methods.schemes import outlier_effect
from harness.models.loaded import LoadedModel
from harness.models.targets.targets import Target
from harness.quant.granularity import Granularity
from harness.quant.primitives import quantize
from harness.quant.schemes.block_scaled import BlockScaled
from harness.quant.tensor import QuantizedTensor

INT8_KERNEL = "bitsandbytes.MatMul8bitLt"
INT8_ROW = BlockScaled(element=Integer(bits=8), granularity=Granularity(block=(1, -1)))
"""INT8, per-channel for a weight and per-token for an activation."""
RTOL = 1e-6
"""Tolerance of a dequantized weight: bitsandbytes multiplies by `127 s` and by 1/127, each rounded
to float32."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BitsandbytesInt8Backend:
    """LLM.int8() with our codes; see the module docstring and `Backend`."""

    threshold: float = 6.0
    """Least magnitude of an outlier, which is multiplied in float; 0 for no outliers."""

    name: ClassVar[str] = "bitsandbytes_int8"
    kind: ClassVar[Literal["real"]] = "real"
    tolerance: ClassVar[Mapping[str, float]] = MappingProxyType({})

    def __post_init__(self) -> None:
        """Check the threshold."""
        # Not `check_bounds`: NaN, which a YAML can hold, is not less than 0 either.
        if not self.threshold >= 0:
            raise ValueError(f"threshold must be >= 0, got {self.threshold}")

    @property
    def batch_effect(self) -> str | None:
        """Step 1 of the module docstring; None without outliers."""
        return outlier_effect(self.threshold)

    def supports(self, rules: Sequence[LayerRule], device: torch.device) -> str | None:
        """Return what is missing, or None: library, device, INT8 formats, or an exact matmul."""
        return unsupported_by_library(rules, device, _unsupported) or int8_saturation(device)

    def apply(self, loaded: LoadedModel, target: Target, layer: QuantizedLayer) -> None:
        """Put a `Linear8bitLt` in the place of the float layer, which is not changed."""
        linear = target.linear
        if linear is None:
            raise UnsupportedRecipe(
                f"LLM.int8 is for linear layers, got {target.name} {tuple(layer.weight.shape)}; "
                "add it to quant.skip"
            )
        install(loaded, target, _linear(linear, layer.weight, self.threshold))

    def inspect(self, loaded: LoadedModel, target: Target, layer: QuantizedLayer) -> Installed:
        """Compare type, codes, scales and threshold in place with the layer; count bytes."""
        module: Any = loaded.module.get_submodule(target.name)
        bnb = bitsandbytes("nn")
        if not isinstance(module, bnb.Linear8bitLt) or module.weight.dtype != torch.int8:
            return not_installed(INT8_KERNEL, module, "Linear8bitLt")
        held = codes_holder(module)
        scales = 0 if held.SCB is None else held.SCB.nbytes
        return Installed(
            kernel=INT8_KERNEL,
            stored_bytes=module.weight.nbytes + scales,
            fault=_fault(held.CB, held.SCB, layer) or self._threshold_fault(module),
        )

    def operands(self, loaded: LoadedModel, target: Target, layer: QuantizedLayer) -> Operands:  # noqa: ARG002
        """Return the dequantized weight, and the rounding of activations with outliers."""
        return Operands(layer.weight.dequantize(), lambda x: round_activation(x, self.threshold))

    def _threshold_fault(self, module: Any) -> str | None:
        if module.state.threshold == self.threshold:
            return None
        return f"the layer in place has threshold {module.state.threshold}, not {self.threshold}"


def round_activation(x_MK: Tensor, threshold: float) -> Tensor:
    """Round an activation as LLM.int8 does: per-token to INT8, but for features with outliers."""
    if not threshold:
        return quantize(x_MK, INT8_ROW).dequantize()
    # 1. of the module docstring: one token decides for the whole batch.
    is_outlier_K = (x_MK.abs() >= threshold).any(0)
    # 2. Outliers are 0 while the scales of tokens are fitted.
    rounded_MK = quantize(x_MK.masked_fill(is_outlier_K, 0), INT8_ROW).dequantize()
    # 3. Outliers pass as they are.
    return torch.where(is_outlier_K, x_MK, rounded_MK)


def int8_saturation(device: torch.device) -> str | None:
    """Return what is wrong with bitsandbytes' INT8 matmul on a device, or None if it is exact."""
    return saturation(device, bitsandbytes("functional").int8_linear_matmul)


def codes_holder(module: Any) -> Any:
    """Return the part of a `Linear8bitLt` that holds its codes (`CB`) and scales (`SCB`)."""
    # The first forward moves both from the weight into the state.
    return module.weight if module.weight.CB is not None else module.state


def _unsupported(rule: LayerRule) -> str | None:
    """Return why LLM.int8 does not do what a rule says, or None."""
    if rule.weight == INT8_ROW and rule.input == INT8_ROW:
        return None
    activations = "none" if rule.input is None else rule.input.name
    return (
        f"LLM.int8 has weights and activations in {INT8_ROW.name}, got weights in "
        f"{rule.weight.name} and activations in {activations}; choose quant=bnb_int8"
    )


@cache
def _silence_cast_warnings() -> None:
    """Drop the warning of every matmul that activations pass through float16."""
    logging.getLogger("bitsandbytes.autograd._functions").addFilter(
        lambda record: "inputs will be cast" not in str(record.msg)
    )


def _linear(linear: nn.Linear, weight: QuantizedTensor, threshold: float) -> nn.Module:
    """Return a `Linear8bitLt` with our codes and the bias of a float layer."""
    _silence_cast_warnings()
    bnb = bitsandbytes("nn")
    # On the meta device no weight is allocated: the codes take its place.
    made = bnb.Linear8bitLt(
        linear.in_features,
        linear.out_features,
        bias=False,
        has_fp16_weights=False,
        threshold=threshold,
        device="meta",
    )
    codes = weight.codes.view(torch.int8)
    # bitsandbytes keeps the absmax of a row where we keep its scale, absmax / 127.
    absmax = weight.scales.planes[0].values.flatten() * INT8_ROW.element.max
    made.weight = bnb.Int8Params(
        codes, requires_grad=False, has_fp16_weights=False, CB=codes, SCB=absmax
    )
    return as_installed(made, linear.bias)


def _fault(codes: Tensor | None, absmax: Tensor | None, layer: QuantizedLayer) -> str | None:
    """Return how codes and scales in place differ from the layer's, or None."""
    if codes is None or absmax is None:
        return "a Linear8bitLt without codes or scales is in place"
    if not torch.equal(codes, layer.weight.codes.view(torch.int8)):
        return "the codes in place are not the layer's"
    # Scales are compared through the values that bitsandbytes makes with them.
    values = bitsandbytes("functional").int8_vectorwise_dequant(codes, absmax)
    if not torch.allclose(values, layer.weight.dequantize(), rtol=RTOL, atol=0):
        return OTHER_VALUES
    return None
