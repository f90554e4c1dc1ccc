"""The rows that must be explained before anybody uses them."""

from collections.abc import Sequence

import pandas as pd

from harness.claims.suspects import MARK, Suspect
from harness.report.sections.section import Section


def suspect_rows(found: Sequence[Suspect]) -> Section | None:
    """Return each suspect row with the reason; None if nothing is suspect."""
    if not found:
        return None
    rows = [
        {
            "task": each.row.task.name,
            "model": each.row.model.name,
            "recipe": each.row.label,
            "why it is suspect, and what to do": each.reason,
        }
        for each in found
    ]
    return Section(
        name="suspect-rows",
        title="Suspect rows",
        text=(
            "These rows break a rule that holds for every model. They may be right, but explain "
            f"them before you use them. Tables mark them {MARK}."
        ),
        table=pd.DataFrame(rows),
    )
