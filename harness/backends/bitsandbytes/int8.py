"""LLM.int8 in the layers of bitsandbytes (0.50; Dettmers et al., "LLM.int8()", 2022, section 3.2).

    y = (Wq Xq) * s_w * s_x + W'_o X_o        rows of INT8 weights times tokens of INT8 inputs, integer sums

A feature of the input of which any token in the batch reaches `threshold` is an outlier (o): it is taken out of Xq and
multiplied in the model's type with its dequantized weights. The scale of a token is then that of its other features. So this is not
w8a8, whose fake path has no such features: it is nearer to the float model, and depends on which tokens share a batch.

It has no tolerance, because it promises no equality. On SmolLM2-135M (480 tokens, float32) it is 0.25 nat/token from fake
w8a8, which is itself 0.25 from the float model; the KL divergence from the float model is 0.030 nat/token instead of 0.048.
Even `threshold=0`, which is w8a8 but for inputs that pass through float16, is 0.25 away: a change in the last place moves a few
codes, and after some layers the rounding errors are other ones of the same size. Layer by layer it is exact (see the tests).
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
from harness.backends.bitsandbytes.four_bit import (
    OTHER_VALUES,
    frozen,
    library,
    missing,
    not_installed,
)
from harness.backends.layer import LayerRule, QuantizedLayer
from harness.backends.probe import Operands
from harness.backends.scaled_mm.layers import overflow
from harness.errors import UnsupportedRecipe
from harness.formats.integer import Integer
from harness.models.loaded import LoadedModel
from harness.models.targets.targets import Target
from harness.quant.granularity import Granularity
from harness.quant.primitives import quantize
from harness.quant.schemes.block_scaled import BlockScaled
from harness.quant.tensor import QuantizedTensor

KERNEL = "bitsandbytes.MatMul8bitLt"
ROWS = BlockScaled(element=Integer(bits=8), granularity=Granularity(block=(1, -1)))
"""INT8 with a scale for each row of the weight, or token of the input."""
RTOL = 1e-6
"""Of a dequantized weight: bitsandbytes multiplies by `127 s` and by 1/127, each rounded to float32."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BitsandbytesInt8Backend:
    """LLM.int8 with our codes; see the module docstring and `Backend`."""

    threshold: float = 6.0
    """Magnitude from which on a feature of the input is multiplied in float; 0 for none."""

    name: ClassVar[str] = "bitsandbytes_int8"
    kind: ClassVar[Literal["real"]] = "real"
    tolerance: ClassVar[Mapping[str, float]] = MappingProxyType({})

    def __post_init__(self) -> None:
        """Refuse a threshold that is none."""
        if not self.threshold >= 0:
            raise ValueError(f"threshold must be >= 0, got {self.threshold}")

    def supports(self, rules: Sequence[LayerRule], device: torch.device) -> str | None:
        """Return what is missing: the library, a device, one of the two INT8 formats, or an exact INT8 matmul."""
        return (
            missing(device)
            or next((reason for rule in rules if (reason := _obstacle(rule))), None)
            or saturates(device)
        )

    def apply(self, loaded: LoadedModel, target: Target, layer: QuantizedLayer) -> None:
        """Put a layer of bitsandbytes in the place of the float one, which stays as it is."""
        linear = target.linear
        if linear is None:
            raise UnsupportedRecipe(
                f"LLM.int8 is for linear layers, got {target.name} {tuple(layer.weight.shape)}; add it to quant.skip"
            )
        install(loaded, target, _linear(linear, layer.weight, self.threshold))

    def inspect(self, loaded: LoadedModel, target: Target, layer: QuantizedLayer) -> Installed:
        """Compare type, codes, scales and threshold in place with the layer; count what is stored."""
        module: Any = loaded.module.get_submodule(target.name)
        bnb = library("nn")
        if not isinstance(module, bnb.Linear8bitLt) or module.weight.dtype != torch.int8:
            return not_installed(KERNEL, module, "Linear8bitLt")
        # The first forward moves both from the weight into the state.
        held = module.weight if module.weight.CB is not None else module.state
        scales = 0 if held.SCB is None else held.SCB.nbytes
        return Installed(
            kernel=KERNEL,
            stored_bytes=module.weight.nbytes + scales,
            fault=_fault(held.CB, held.SCB, layer) or self._threshold_fault(module),
        )

    def operands(self, loaded: LoadedModel, target: Target, layer: QuantizedLayer) -> Operands:  # noqa: ARG002
        """Return the layer's codes, and the rounding of inputs with outliers."""
        return Operands(layer.weight.dequantize(), lambda x: rounded_inputs(x, self.threshold))

    def _threshold_fault(self, module: Any) -> str | None:
        if module.state.threshold == self.threshold:
            return None
        return f"the layer in place has threshold {module.state.threshold}, not {self.threshold}"


def _obstacle(rule: LayerRule) -> str | None:
    """Return why LLM.int8 is not what a rule says, or None."""
    if rule.weight == ROWS and rule.input == ROWS:
        return None
    inputs = "none" if rule.input is None else rule.input.name
    return (
        f"LLM.int8 has {ROWS.name} weights and {ROWS.name} inputs, got weight {rule.weight.name} and input {inputs}; "
        "choose quant=bnb_int8"
    )


def rounded_inputs(x_MK: Tensor, threshold: float) -> Tensor:
    """Round inputs as LLM.int8 does: to INT8 by token, except features in which some token reaches the threshold."""
    if not threshold:
        return quantize(x_MK, ROWS).dequantize()
    is_outlier_K = (x_MK.abs() >= threshold).any(0)
    return torch.where(
        is_outlier_K, x_MK, quantize(x_MK.masked_fill(is_outlier_K, 0), ROWS).dequantize()
    )


@cache
def saturates(device: torch.device) -> str | None:
    """Return what is wrong with bitsandbytes' INT8 matmul on a processor, or None if it is exact."""
    return overflow(device, library("functional").int8_linear_matmul)


@cache
def _quiet() -> None:
    """Drop what bitsandbytes says at every product: that inputs pass through float16."""
    logging.getLogger("bitsandbytes.autograd._functions").addFilter(
        lambda record: "inputs will be cast" not in str(record.msg)
    )


def _linear(linear: nn.Linear, weight: QuantizedTensor, threshold: float) -> nn.Module:
    """Return a `Linear8bitLt` with our codes; it shares the bias."""
    _quiet()
    bnb = library("nn")
    made = bnb.Linear8bitLt(
        linear.in_features,
        linear.out_features,
        bias=False,
        has_fp16_weights=False,
        threshold=threshold,
        device="meta",
    )
    codes = weight.codes.view(torch.int8)
    # bitsandbytes keeps the largest magnitude of a row where we keep its scale.
    largest = weight.scales.planes[0].values.flatten() * ROWS.element.max
    made.weight = bnb.Int8Params(
        codes, requires_grad=False, has_fp16_weights=False, CB=codes, SCB=largest
    )
    made.bias = linear.bias
    return frozen(made)


def _fault(codes: Tensor | None, largest: Tensor | None, layer: QuantizedLayer) -> str | None:
    """Return how codes and scales differ from the layer's, or None."""
    if codes is None or largest is None:
        return "a Linear8bitLt without codes or scales is in place"
    if not torch.equal(codes, layer.weight.codes.view(torch.int8)):
        return "the codes in place are not the layer's"
    values = library("functional").int8_vectorwise_dequant(codes, largest)
    if not torch.allclose(values, layer.weight.dequantize(), rtol=RTOL, atol=0):
        return OTHER_VALUES
    return None
