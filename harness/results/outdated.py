"""Recognize records that say `ok` but have numbers that a fault, mended since, made wrong.

The fields of a record show it: records made after these faults were mended name the architecture of the model, older ones do not. Reports
leave an outdated record out and say why, and its command measures again instead of finding it on file.
"""

import re

from harness.identity import class_name
from harness.results.record import RunRecord

COMPARING = ("divergence", "noise_floor")
"""Tasks that once compared a quantized checkpoint with itself."""
GGUF_FLOATS = frozenset({"F16", "BF16", "F32", "F64"})
"""Types of tensors in a GGUF file that are not quantized."""
COMPARED_WITH_ITSELF = (
    "the checkpoint came quantized and was taken for its own float model; repeat the run with +model@model.baseline=..., the float "
    "model that it was made of"
)
READ_OTHERWISE = "quantized checkpoints were read less exactly (type of the weights, scales of experts, rounding of inputs); repeat the run"
CHOSEN_OTHERWISE = "in models with matrices of more than two axes other weights were quantized, or along another axis; repeat the run"

PERPLEXITIES = ("perplexity", "perplexity_llama_cpp", "perplexity_documents")
"""Tasks whose items hold the log-loss of tokens, the preferred one first."""
OVER_TEXT = (*PERPLEXITIES, "divergence", "noise_floor", "parity")
"""Tasks whose intervals once took windows for independent."""
PARTS_OF_TEXT = ("token", "word", "byte")
"""What their figures are over; those over questions were right."""
BY_CLUSTER = "interval by "
"""What is in the note of an interval that holds."""
TOO_NARROW = "no interval: the one on file takes windows for independent, which is too narrow; repeat the run"
OR_ADD = ", or run `python scripts/add_documents.py FOLDER`"


def without_narrow_intervals(record: RunRecord) -> RunRecord:
    """Return a record without the intervals that were made over windows of a text, each with a note that says so."""
    task = record.task
    if task is None or task.name not in OVER_TEXT or task.data.get("name") == "random tokens":
        return record
    why = TOO_NARROW + (OR_ADD if task.name in PERPLEXITIES else "")
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
        and ("checkpoint" in quant.formats or _is_of_blocks(record))
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


def _is_of_blocks(record: RunRecord) -> bool:
    """Say whether the model is a GGUF file with quantized blocks; its origin lists the types of its tensors."""
    model = record.config.get("model")
    source = class_name(model.get("_target_")) if isinstance(model, dict) else ""
    kinds = re.findall(r"\d+ x (\w+)", record.model.origin) if record.model is not None else []
    return source == "GgufModel" and not GGUF_FLOATS.issuperset(kinds)
