"""The rows that must be explained before anybody uses them."""

from collections.abc import Sequence

from harness.claims.suspects import MARK, Suspect
from harness.report.sections.section import Section


def suspect_rows(found: Sequence[Suspect]) -> Section | None:
    """Return each suspect row with the reason; None if nothing is suspect."""
    if not found:
        return None
    reasons = [
        f"{each.row.label}, {each.row.task.name} of {each.row.model.name}: {each.reason}."
        for each in found
    ]
    return Section(
        name="suspect-rows",
        title="Suspect rows",
        text="\n".join(
            [
                "These rows break a rule that holds for every model. They may be right, but "
                f"explain them before you use them. Tables mark them {MARK}.",
                *reasons,
            ]
        ),
    )
