"""SmoothQuant beside the same recipe without smoothing, over all tasks of a model."""

from collections.abc import Sequence

import pandas as pd

from harness.claims.claim import Answered, Claim, family, reference_value
from harness.claims.grouping import Row
from harness.claims.sentences import shown, verdict_with_margin
from harness.identity import class_name
from harness.report.accuracy import recipe_parts
from harness.report.sections.granularity import headline
from harness.report.sections.section import Section
from harness.report.titles import weights_words
from harness.results import formatting as figures

BACKENDS = {"TorchaoSmoothQuantBackend": "TorchaoBackend"}
"""Backend with smoothing -> the same backend without it."""
TEXT = (
    "Each recipe beside the same weights, activations and matmuls without smoothing, over the same "
    "samples; mmlu is the direct form, mmlu_generate the generated one. The difference is paired, "
    "smoothed minus not smoothed, with its 95 % interval; p is corrected within a task (Holm). The "
    "last column is the verdict of the smoothed recipe against the baseline."
)


def smoothquant(answered: Sequence[Answered]) -> list[Section]:
    """Return a table for each model that ran with smoothing and without."""
    models: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for each in answered:
        model = each.group.model
        if each.group.is_quality and (rows := _rows(each)):
            key = (model.name, model.dtype, model.device, model.fingerprint)
            models.setdefault(key, []).extend(rows)
    return [
        Section(
            name="smoothquant",
            title=f"SmoothQuant: {name}, {dtype} on {device}, {weights_words(fingerprint)}",
            text=TEXT,
            table=pd.DataFrame(rows),
        )
        for (name, dtype, device, fingerprint), rows in models.items()
    ]


def _rows(answered: Answered) -> list[dict[str, str]]:
    group = answered.group
    pairs = [
        (smooth, plain)
        for smooth in group.rows
        for plain in group.rows
        if _is_without(plain, smooth)
    ]
    rows = []
    for (smooth, plain), found in zip(pairs, family(pairs, floor=answered.floor_size), strict=True):
        p = found.evidence.p if isinstance(found, Claim) else None
        against = answered.against_baseline.get(smooth.stored.record.run_id)
        rows.append(
            {
                "task": f"{group.task.name}{group.suffix}",
                "recipe": smooth.label,
                "without smoothing": plain.label,
                "value": headline(smooth),
                "value without": headline(plain),
                "baseline": headline(group.baseline),
                "difference": (
                    shown(found)
                    if isinstance(found, Claim)
                    else figures.difference(
                        smooth.value, reference_value(found), smooth.headline.unit
                    )
                ),
                "p": figures.MISSING if p is None else figures.p_value(p),
                "smoothing is": verdict_of(found),
                "differs from baseline": verdict_of(against),
            }
        )
    return rows


def verdict_of(found: object) -> str:
    """Return the verdict of a comparison; `-` if there is none."""
    return verdict_with_margin(found) if isinstance(found, Claim) else figures.MISSING


def _is_without(plain: Row, smooth: Row) -> bool:
    """Say whether a run is another one without its smoothing."""
    return BACKENDS.get(_backend(smooth)) == _backend(plain) and _rounding(plain) == _rounding(
        smooth
    )


def _backend(row: Row) -> str:
    backend = (row.stored.record.config.get("quant") or {}).get("backend") or {}
    return class_name(backend.get("_target_", ""))


def _rounding(row: Row) -> object:
    """Return what two recipes round; smoothing is fitted to a text, rounding here is not."""
    found = recipe_parts(row, "backend")
    return found if isinstance(found, str) else {k: v for k, v in found.items() if k != "text"}
