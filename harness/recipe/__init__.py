"""Recipes: what to quantize and how, doing it, and the report on it.

    recipe           `QuantRecipe`: rules, what to skip, a backend, calibration text
    selection        which weights of a model the rules choose, and why the others stay in float
    quantize_model   the steps from an unquantized model to a quantized one
    quantized_layer  one weight: codes, backend, audit
    report           the `quant` part of the record, and warnings
    checkpoint       the same report on a model that came quantized

`conf/quant` points at `QuantRecipe` and `LayerRule` of this door.
"""

from harness.backends.layer import LayerRule
from harness.recipe.quantize_model import audit_after, quantize
from harness.recipe.recipe import QuantRecipe
from harness.recipe.report import Quantized

__all__ = ["LayerRule", "QuantRecipe", "Quantized", "audit_after", "quantize"]
