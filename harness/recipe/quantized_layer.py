"""Quantize one weight: make codes and scales, let the backend put them in place, audit them."""

from dataclasses import replace

from torch import Tensor

from harness.backends.base import Installed
from harness.backends.layer import LayerRule, QuantizedLayer
from harness.errors import AuditError, UnsupportedRecipe
from harness.formats.overflow import FormatOverflow, refuse_overflow
from harness.models.loaded import LoadedModel
from harness.quant.primitives import encode, fit
from harness.quant.tensor import QuantizedTensor, Scales, TensorFormat
from harness.recipe.recipe import QuantRecipe
from harness.recipe.selection import Choice


def quantize_layer(
    loaded: LoadedModel, recipe: QuantRecipe, choice: Choice, static: Scales | None
) -> tuple[QuantizedLayer, Installed]:
    """Put a quantized layer in the place of a float weight; return it, and what is in place.

    Args:
        loaded: The model.
        recipe: Has the rule and the backend.
        choice: The target, and the name of its rule.
        static: Static scales of the activation, if the rule has them.

    Raises:
        AuditError: The weight is not finite, before or after rounding, or what is in place differs
            from the quantized layer.
        UnsupportedRecipe: The format or the backend cannot do this weight.
    """
    target, rule, backend = choice.target, recipe.rules[choice.rule], recipe.backend
    _check_target(choice, rule)
    matrix = target.matrix
    quantized, values = _rounded(matrix, rule.weight, target.name)
    layer = QuantizedLayer(
        name=target.name,
        rule=choice.rule,
        format=rule.weight,
        weight=quantized,
        rel_error=_relative_error(matrix, values),
        input=rule.input,
        input_scales=static,
    )
    # Only `apply` gets the values. The layer itself is kept for the report, and would keep the
    # float32 weights of the whole model in memory.
    backend.apply(loaded, target, replace(layer, values=values))
    installed = backend.inspect(loaded, target, layer)
    if installed.fault:
        raise AuditError(
            f"layer {target.name} must be in format {rule.weight.name}, got: {installed.fault}"
        )
    return layer, installed


def _check_target(choice: Choice, rule: LayerRule) -> None:
    """Check that a weight is finite, and that its activation can be rounded."""
    target = choice.target
    if not target.matrix.isfinite().all():
        raise AuditError(
            f"every weight must be finite, got NaN or infinity in {target.name}; "
            "the checkpoint is damaged"
        )
    # An embedding is looked up: it has token ids where a matmul has an activation.
    if rule.input is not None and target.alias == "embed_tokens":
        raise UnsupportedRecipe(
            f"activations are rounded where a weight is multiplied, got rule {choice.rule} with an "
            f"input format for {target.name}; add it to quant.skip, or give it a rule without input"
        )


def _rounded(matrix: Tensor, fmt: TensorFormat, name: str) -> tuple[QuantizedTensor, Tensor]:
    """Return a weight as codes, and the values that they stand for, float32."""
    try:
        quantized = encode(matrix, fmt, fit(matrix, fmt))
        values = quantized.dequantize()
        # In the model's type: what is finite in float32 may be infinite in float16.
        refuse_overflow(matrix, values.to(matrix.dtype), fmt.name)
    except FormatOverflow as reason:
        raise AuditError(f"{reason} (layer {name})") from reason
    except ValueError as reason:
        raise UnsupportedRecipe(
            f"{reason} (layer {name}); or add the layer to quant.skip"
        ) from reason
    return quantized, values


def _relative_error(exact: Tensor, rounded: Tensor) -> float:
    """Return `|W - W'| / |W|` (Frobenius norms, float64); the numerator for a weight of zeros."""
    norm = float(exact.double().norm())
    error = float((exact.double() - rounded.double()).norm())
    return error / norm if norm else error
