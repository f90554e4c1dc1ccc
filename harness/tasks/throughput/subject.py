"""Subjects: the models that are timed, by name.

    float              the unquantized model with native matmuls, in the model's own type
    float32_products   the same model with float32 matmuls
    recipe             the quantized model, also a checkpoint that came quantized
    model              the model of an engine that cannot compare, whatever it is

On a CPU without 16-bit instructions, 16-bit matmuls are several times slower than float32 ones.
There a recipe that is faster than `float` may gain nothing over `float32_products`; on other CPUs
the reverse. So both are timed wherever they differ.
"""

from collections.abc import Collection
from types import MappingProxyType

from harness.engines.timed import Phase, TimedModel

FLOAT, FLOAT32_MATMULS, RECIPE, MODEL = "float", "float32_products", "recipe", "model"
"""Names of subjects, in the ids of samples."""
LABELS = MappingProxyType(
    {
        FLOAT: "unquantized model",
        FLOAT32_MATMULS: "unquantized model with float32 matmuls",
        RECIPE: "quantized model",
        MODEL: "model",
    }
)
"""Name of a subject -> words for messages."""
PHASES: tuple[Phase, ...] = ("prefill", "decode")
"""In the order of a request."""


def measured(subjects: Collection[str]) -> str:
    """Return the name of the subject that the metrics describe: not a baseline, if possible."""
    return next(name for name in (RECIPE, FLOAT, MODEL) if name in subjects)


def reference(subjects: Collection[str]) -> str:
    """Return the name of the subject whose drift counts, which opens and closes the rounds."""
    return next(name for name in (FLOAT, MODEL) if name in subjects)


def differing_phases(one: TimedModel, other: TimedModel) -> tuple[Phase, ...]:
    """Return the phases in which two subjects multiply in different types."""
    return tuple(phase for phase in PHASES if one.matmuls[phase].work != other.matmuls[phase].work)
