"""The report on a model whose checkpoint is quantized: `quant=none` leaves it as it is."""

from harness.backends.probe import compute_warnings
from harness.backends.stored_layers import checkpoint_compute
from harness.errors import UnsupportedRecipe
from harness.models.checkpoints.prequantized import Prequantized
from harness.models.loaded import LoadedModel
from harness.recipe.recipe import QuantRecipe
from harness.recipe.report import Quantized
from harness.results.record import QuantReport


def checkpoint_of(loaded: LoadedModel, recipe: QuantRecipe) -> Prequantized | None:
    """Return the facts about a checkpoint that the recipe leaves quantized, or None.

    Float weights that were dequantized from a file (GGUF) can be quantized again; without rules the
    file is what is measured.
    """
    return loaded.prequantized or (None if recipe.rules else loaded.dequantized)


def report_checkpoint(loaded: LoadedModel, stored: Prequantized, recipe: QuantRecipe) -> Quantized:
    """Report on a model whose checkpoint is quantized.

    Raises:
        UnsupportedRecipe: The recipe would quantize it a second time.
        AuditError: A layer multiplies something else than its codes.
    """
    if recipe.rules:
        raise UnsupportedRecipe(
            "quant must be none for a model that is quantized already, got "
            f"{recipe.name} for a {loaded.origin}; leave quant out, or load the float checkpoint"
        )
    # Layers that hold floats again multiply in the model's type: there is nothing to measure.
    compute = checkpoint_compute(loaded) if stored.kind == "real" else None
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
    warnings = (*stored.warnings, *compute_warnings(compute, stored.method, loaded))
    return Quantized(report=report, warnings=warnings)
