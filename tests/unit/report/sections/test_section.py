"""A section names the run behind each row, or of none."""

import pandas as pd
import pytest

from harness.report.sections.section import Section


@pytest.mark.parametrize("runs", [["a"], ["a", "b", "c"]])
def test_runs_are_as_many_as_rows(runs: list[str]) -> None:
    with pytest.raises(ValueError, match="one for each of 2 rows"):
        Section(name="n", title="t", text="", table=pd.DataFrame({"x": ["1", "2"]}), runs=runs)


def test_a_table_may_have_no_runs() -> None:
    table = pd.DataFrame({"x": ["1", "2"]})
    assert Section(name="n", title="t", text="", table=table).runs == ()
    assert Section(name="n", title="t", text="", table=table, runs=["a", ""]).runs == ["a", ""]
