import pandas as pd

from harness.report.sections.section import Section
from harness.report.shape import LONGEST_CELL, shaped


def section(rows: list[dict[str, str]]) -> Section:
    return Section(name="n", title="T", text="Text.", table=pd.DataFrame(rows))


def test_a_column_that_every_row_shares_goes_into_the_text() -> None:
    found = shaped(
        section([{"recipe": "a", "n": "5", "p": "1"}, {"recipe": "b", "n": "5", "p": "2"}])
    )
    assert found.table is not None
    assert [*found.table] == ["recipe", "p"]
    assert found.text == "Text.\nIn every row: n 5."


def test_the_first_column_and_a_single_row_stay() -> None:
    same = shaped(section([{"recipe": "a", "p": "1"}, {"recipe": "a", "p": "2"}]))
    single = shaped(section([{"recipe": "a", "p": "1"}]))
    assert same.table is not None
    assert [*same.table] == ["recipe", "p"]
    assert single.table is not None
    assert [*single.table] == ["recipe", "p"]
    assert single.text == "Text."


def test_a_long_cell_is_a_note_once() -> None:
    long = "word " * 60
    rows = [{"recipe": name, "why": long} for name in "ab"] + [{"recipe": "c", "why": "short"}]
    found = shaped(section(rows))
    assert found.table is not None
    assert found.table.map(len).to_numpy().max() <= LONGEST_CELL
    assert [cell.endswith("(note 1)") for cell in found.table["why"]] == [True, True, False]
    assert found.text.splitlines() == ["Text.", f"Note 1: {long.strip()}"]
