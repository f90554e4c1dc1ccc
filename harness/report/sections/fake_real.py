"""A real recipe beside its fake-quantized form: the same task, scored by both."""

from collections.abc import Sequence

import pandas as pd

from harness.claims.claim import Answered, family
from harness.claims.grouping import Group, Row
from harness.report.accuracy import is_fake_of, is_of_model, recipe_parts
from harness.report.sections.differences import Columns, of_comparison
from harness.report.sections.granularity import headline, what_cells_are
from harness.report.sections.parity import PARITY_WORDS, parity_of
from harness.report.sections.section import Section
from harness.report.titles import task_title
from harness.results import names

COLUMNS = Columns("real - fake", "real is")
NO_PARITY = "not measured"


def fake_against_real(answered: Answered, groups: Sequence[Group]) -> Section | None:
    """Return a row for each real recipe whose fake-quantized form ran in the same group, or None.

    Args:
        answered: A group with its claims.
        groups: All groups, which have the parity records.
    """
    group = answered.group
    if not group.is_quality:
        return None
    pairs = [
        (real, fake)
        for real in group.rows
        if real.quant.kind == "real"
        for fake in group.rows
        if is_fake_of(fake, real)
    ]
    if not pairs:
        return None
    rows, notes = [], []
    for (real, fake), found in zip(pairs, family(pairs, floor=answered.floor_size), strict=True):
        difference = of_comparison(found, COLUMNS)
        notes.append(difference.note)
        rows.append(
            {
                "recipe": real.label,
                "fake form": fake.label,
                "fake": headline(fake),
                "real": headline(real),
                **difference.cells,
                "parity": _parity(real, groups),
            }
        )
    explained = (
        f"{what_cells_are(group)} The difference is paired over the same samples. Parity says "
        "whether the output of every layer is within the backend's tolerance, by a record of "
        f"task=parity of the same recipe and model; {NO_PARITY} where none is on file."
    )
    return Section(
        name="fake-against-real",
        title=f"Fake against real: {task_title(group)}",
        text="\n".join([explained, *dict.fromkeys(filter(None, notes))]),
        table=pd.DataFrame(rows),
    )


def _parity(real: Row, groups: Sequence[Group]) -> str:
    """Return the verdict of the parity records of a recipe; the worst if they differ."""
    found = [
        parity_of(row)
        for group in groups
        if group.task.name == names.PARITY and is_of_model(real, group)
        for row in group.rows
        if recipe_parts(row) == recipe_parts(real)
    ]
    if not found:
        return NO_PARITY
    return PARITY_WORDS[False if False in found else None if None in found else True]
