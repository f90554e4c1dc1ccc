"""How runs compare with published figures."""

from collections.abc import Sequence

import pandas as pd

from harness.anchors.sentences import check
from harness.claims.grouping import shown
from harness.report.sections.records import name_of, task_of
from harness.report.sections.section import Section
from harness.results.store import Stored


def published_figures(stored: Sequence[Stored]) -> Section | None:
    """Return a row for each published figure of a run's model; None if there are none."""
    found = [(item, said) for item in shown(stored) for said in check(item.record)]
    rows = [
        {"run": f"{task_of(item)} {name_of(item)}", "beside what is published": said}
        for item, said in found
    ]
    if not rows:
        return None
    return Section(
        name="published-figures",
        title="Published figures",
        text="Runs beside figures that others have published of the same model and recipe. Both "
        "are about the same tokens or questions, so the tolerance is that of types, kernels and "
        "printed digits. `quant-harness anchors` lists the figures.",
        table=pd.DataFrame(rows),
        runs=[item.record.run_id for item, _ in found],
    )
