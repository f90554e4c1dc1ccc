"""What is wanted of a layer, and what was made of it."""

from dataclasses import dataclass

from harness.quant.tensor import QuantizedTensor, Scales, TensorFormat


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerRule:
    """Store the weights of matching layers in a format, and round what goes into them to another."""

    match: str
    """Glob over module paths, such as `*` or `model.layers.*.mlp.*`."""
    weight: TensorFormat
    """Format of the weight."""
    input: TensorFormat | None = None
    """Format of the layer's input; None leaves it in float."""
    static_input: bool = False
    """Fit the scales of the input once, to calibration text, instead of at each call."""


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantizedLayer:
    """A quantized weight on its way to a backend, which decides what runs in its place."""

    name: str
    """Path of the target in the model."""
    rule: str
    """Name of the rule that chose the format."""
    format: TensorFormat
    weight: QuantizedTensor
    rel_error: float
    """`|W - W'| / |W|` (Frobenius norms); 0 for a zero weight."""
    input: TensorFormat | None = None
    """Format of the layer's input."""
    input_scales: Scales | None = None
    """Static scales of the input; None fits them at each call."""
