"""How far right answers are ahead of the best wrong ones: it moves before an answer flips."""

import pandas as pd

from harness.claims.claim import Answered, Claim, Comparison, NotCompared
from harness.claims.grouping import Row
from harness.claims.sentences import in_unit
from harness.report.sections.section import Section, runs_of
from harness.report.titles import task_title
from harness.results import formatting as figures
from harness.results import names


def leads(answered: Answered) -> Section | None:
    """Return the lead of each recipe with its difference from the baseline's; None without leads.

    Rows stand in the order of the accuracies.
    """
    if not answered.leads:
        return None
    rows = [
        _cells(row, answered.leads.get(row.stored.record.run_id)) for row in answered.group.rows
    ]
    untested = (_why_no_test(found) for found in answered.leads.values())
    return Section(
        name="leads",
        title=f"Lead of the right answer: {task_title(answered.group)}",
        text="\n".join(
            [
                "The log-probability per character of the right answer minus that of the wrong "
                "answer with the highest one, in the mean over questions; higher is better. It "
                "moves before an answer flips, so it tells recipes apart that have one accuracy. "
                "The difference is paired by question; p is the larger one of tests by question "
                "and by subject, corrected for the number of recipes (Holm).",
                *dict.fromkeys(why for why in untested if why),
            ]
        ),
        table=pd.DataFrame(rows),
        runs=runs_of(answered.group.rows),
    )


def _cells(row: Row, found: Comparison | None) -> dict[str, str]:
    lead = row.metric(names.LEAD)
    difference = interval = p = verdict = figures.MISSING
    if isinstance(found, Claim):
        _, value, bounds = in_unit(found)
        difference, verdict = f"{value:+.5f}", str(found.verdict)
        interval = figures.show_bounds(bounds, "signed")
        p = figures.MISSING if found.evidence.p is None else figures.p_value(found.evidence.p)
    return {
        "recipe": row.label,
        "lead [nat/character]": figures.show(lead, "4 digits"),
        "95 % interval": figures.show_interval(lead, "4 digits"),
        "difference from baseline": "0 (baseline)" if row.is_baseline else difference,
        "its 95 % interval": interval,
        "p": p,
        "differs from baseline": verdict,
    }


def _why_no_test(found: Comparison) -> str | None:
    if isinstance(found, NotCompared):
        return f"{found.row.label}: {found.reason}."
    return None if found.difference.estimates else f"{found.row.label}: {found.difference.test}."
