"""The report on a model whose checkpoint is quantized: `quant=none` leaves it as it is."""

from harness.backends import probe, stored_layers
from harness.errors import UnsupportedRecipe
from harness.models.checkpoints.prequantized import Prequantized
from harness.models.loaded import LoadedModel
from harness.recipe.recipe import QuantRecipe
from harness.recipe.report import Quantized
from harness.results.record import QuantReport


def as_it_came(loaded: LoadedModel, stored: Prequantized, recipe: QuantRecipe) -> Quantized:
    """Report on a model whose checkpoint is quantized.

    Raises:
        UnsupportedRecipe: The recipe would quantize it a second time.
    """
    if recipe.rules:
        raise UnsupportedRecipe(
            f"quant must be none for a model that is quantized already, got {recipe.name} for a {loaded.origin}; "
            "leave quant out, or load the float checkpoint"
        )
    compute = stored_layers.measure(loaded) if stored.kind == "real" else None
    float_bits = float(loaded.dtype.itemsize * 8)
    report = QuantReport(
        name=recipe.name,
        formats={"checkpoint": stored.scheme},
        input_formats={"checkpoint": stored.inputs} if stored.inputs else {},
        output_formats={"checkpoint": stored.outputs} if stored.outputs else {},
        cache_format=stored.cache,
        kind=stored.kind,
        backend=stored.method,
        compute=compute,
        num_quantized=stored.num_quantized,
        coverage=stored.coverage,
        bits_per_weight=stored.bits_per_weight if stored.num_quantized else float_bits,
        model_bytes=stored.file_bytes,
        stored_bytes=stored.stored_bytes,
        skipped=(),
        layers=(),
    )
    warnings = (*stored.warnings, *probe.warnings_of(compute, stored.method, loaded))
    return Quantized(report=report, warnings=warnings)
