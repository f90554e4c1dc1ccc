"""What a report leaves out: records whose numbers are known to be wrong, and damaged files."""

from collections.abc import Sequence

import pandas as pd

from harness.claims.grouping import finished
from harness.redaction import redacted
from harness.report.sections.section import Section
from harness.report.sections.unfinished import cells_of
from harness.results.outdated import outdated
from harness.results.store import Stored

MOST_PROBLEMS = 50
"""How many problems are listed one by one."""


def known_to_be_wrong(stored: Sequence[Stored]) -> Section | None:
    """Return the records that a fault, mended since, made wrong, with the reason; None if none."""
    wrong = [item for item in finished(stored) if outdated(item.record) is not None]
    rows = [cells_of(item, outdated(item.record) or "") for item in wrong]
    if not rows:
        return None
    return Section(
        name="known-to-be-wrong",
        title="Left out: records that are known to be wrong",
        text="These runs ended well, but a fault that was mended since made their numbers wrong. "
        "No table has them.",
        table=pd.DataFrame(rows),
        runs=[item.record.run_id for item in wrong],
    )


def unusable(problems: Sequence[str]) -> Section | None:
    """Return the files and sections that the report lacks, each with what to do; None if none."""
    if not problems:
        return None
    return Section(
        name="left-out",
        title="Left out: files that cannot be used",
        text="The report is written from the other files. Until these are mended it may lack "
        "results.",
        table=pd.DataFrame({"what must be, what is, and what to do": shortened(problems)}),
    )


def shortened(problems: Sequence[str]) -> list[str]:
    """Return the first problems without secrets, and a line with the number of the others."""
    more = len(problems) - MOST_PROBLEMS
    # The command of an old record may hold a token. A file name may hold bytes that are not UTF-8.
    listed = [
        redacted(line).encode(errors="backslashreplace").decode()
        for line in problems[:MOST_PROBLEMS]
    ]
    return [*listed, *([f"and {more:,} more"] if more > 0 else [])]
