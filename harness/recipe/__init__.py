"""What to quantize and how: the recipe, doing it, and the report on it."""

from harness.backends.layer import LayerRule
from harness.recipe.quantize_model import audit_after, quantize
from harness.recipe.recipe import QuantRecipe
from harness.recipe.report import Quantized

__all__ = ["LayerRule", "QuantRecipe", "Quantized", "audit_after", "quantize"]
