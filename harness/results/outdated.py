"""Records that say `ok` but have wrong numbers, because of a fault that was mended since.

The fields of a record show it: records made after the repair name the architecture of the model,
older records do not. A report leaves an outdated record out and says why, and the command of the
record measures again.
"""

import re

from harness.identity import class_name
from harness.results import names
from harness.results.record import RunRecord

COMPARING = (names.DIVERGENCE, names.NOISE_FLOOR)
"""Tasks that once compared a quantized checkpoint with itself."""
GGUF_FLOATS = frozenset({"F16", "BF16", "F32", "F64"})
"""Types of tensors in a GGUF file that are not quantized."""
COMPARED_WITH_ITSELF = (
    "the checkpoint came quantized and was taken for its own unquantized model; repeat the run "
    "with +model@model.baseline=..., the unquantized model that it was made of"
)
READ_OTHERWISE = (
    "quantized checkpoints were read less exactly (type of the weights, scales of experts, "
    "rounding of inputs); repeat the run"
)
CHOSEN_OTHERWISE = (
    "in models with matrices of more than two axes other weights were quantized, or along another "
    "axis; repeat the run"
)

OVER_TEXT = (*names.PERPLEXITIES, names.DIVERGENCE, names.NOISE_FLOOR, names.PARITY)
"""Tasks whose intervals once took windows for independent."""
PARTS_OF_TEXT = ("token", "word", "byte")
"""`n_of` of the metrics with such intervals. Intervals over questions were right."""
BY_CLUSTER = "interval by "
"""What the note of a right interval holds."""
TOO_NARROW = (
    "no interval: the one on file takes windows for independent, which is too narrow; repeat the "
    "run"
)
OR_ADD = ", or run `python scripts/add_documents.py FOLDER`"


def without_narrow_intervals(record: RunRecord) -> RunRecord:
    """Return a record in which intervals over windows of a text are replaced by a note."""
    task = record.task
    if task is None or task.name not in OVER_TEXT or task.data.get("name") == "random tokens":
        return record
    why = TOO_NARROW + (OR_ADD if task.name in names.PERPLEXITIES else "")
    metrics = tuple(
        metric.model_copy(
            update={"ci95": None, "note": "; ".join(filter(None, (metric.note, why)))}
        )
        if metric.ci95 and metric.n_of in PARTS_OF_TEXT and BY_CLUSTER not in (metric.note or "")
        else metric
        for metric in record.metrics
    )
    return record.model_copy(update={"metrics": metrics})


def outdated(record: RunRecord) -> str | None:
    """Return why the numbers of a record are known to be wrong and what to do, or None."""
    task, model, quant = record.task, record.model, record.quant
    if task is None or model is None or quant is None:
        return None
    if (
        task.name in COMPARING
        and quant.name == "none"
        and record.baseline is None
        and ("checkpoint" in quant.formats or _is_quantized_gguf(record))
    ):
        return COMPARED_WITH_ITSELF
    if model.architecture is not None:
        return None
    if "checkpoint" in quant.formats:
        return READ_OTHERWISE
    shapes = [*(layer.shape for layer in quant.layers), *(other.shape for other in quant.skipped)]
    if quant.layers and any(len(shape) > 2 for shape in shapes):
        return CHOSEN_OTHERWISE
    return None


def _is_quantized_gguf(record: RunRecord) -> bool:
    """Say whether the model is a GGUF file with quantized tensors."""
    model = record.config.get("model")
    source = class_name(model.get("_target_")) if isinstance(model, dict) else ""
    # The origin lists the types of the tensors: `dequantized GGUF (210 x Q4_1, 61 x F32)`.
    kinds = re.findall(r"\d+ x (\w+)", record.model.origin) if record.model is not None else []
    return source == "GgufModel" and not GGUF_FLOATS.issuperset(kinds)
