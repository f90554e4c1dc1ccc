"""The rule that a recipe has for a layer, and the quantized layer that a backend is given."""

from dataclasses import dataclass

from torch import Tensor

from harness.quant.tensor import QuantizedTensor, Scales, TensorFormat


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerRule:
    """Quantizes the weights of matching layers to one format, and their activations to another."""

    match: str
    """Glob over module paths, such as `*` or `model.layers.*.mlp.*`."""
    weight: TensorFormat
    """Format of the weight."""
    input: TensorFormat | None = None
    """Format of the activation that the weight is multiplied with; None leaves it in float."""
    static_input: bool = False
    """Fit the scales of the activation once, to calibration text, instead of at each call."""


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantizedLayer:
    """A quantized weight on its way to a backend, which decides what computes in its place."""

    name: str
    """Path of the target in the model."""
    rule: str
    """Name of the rule that chose the formats."""
    format: TensorFormat
    weight: QuantizedTensor
    rel_error: float
    """`|W - W'| / |W|` (Frobenius norms); 0 for a weight of zeros."""
    input: TensorFormat | None = None
    """Format of the activation."""
    input_scales: Scales | None = None
    """Static scales of the activation; None fits them at each call."""
    values: Tensor | None = None
    """`weight.dequantize()`, where it was computed already. Only `Backend.apply` gets it: a model's
    weights in float32 would not fit into memory beside the model."""

    def dequantized(self) -> Tensor:
        """Return the weight that the codes stand for, float32; computed once where `values` has it.

        For `apply` alone: an audit must decode the codes itself (`weight.dequantize()`).
        """
        return self.weight.dequantize() if self.values is None else self.values
