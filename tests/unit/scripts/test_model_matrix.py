"""The table of docs/models.md is that of the registry, and says what is so."""

import re
from pathlib import Path
from types import ModuleType

import pytest
from architectures import ARCHITECTURES
from repository import ROOT
from script_modules import load_script

PAGE = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
TABLE = PAGE.partition("<!-- begin")[2]
ROWS = {line.split("`")[1]: line for line in TABLE.splitlines() if line.startswith("| `")}
REASONS = {
    text.replace("\n  ", ""): int(number)
    for number, text in re.findall(r"^(\d+)\. (.+(?:\n   .+)*)$", TABLE, re.M)
}


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("model_matrix")


def test_every_architecture_has_a_row() -> None:
    assert list(ROWS) == list(ARCHITECTURES)
    assert len(ROWS) >= 30


def test_no_row_has_a_wrong_number_and_every_refusal_has_a_reason() -> None:
    assert "**" not in "".join(ROWS.values())
    for line in ROWS.values():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert cells[3] == "yes"
        assert re.match(r"yes, \d+%$", cells[4])
        for cell in cells[5:8]:
            number = re.fullmatch(r"yes|no \((\d+)\)", cell)
            assert number is not None
            assert number[1] is None or int(number[1]) in REASONS.values()


def test_reasons_of_the_page_are_those_that_the_script_writes(script: ModuleType) -> None:
    reasons = script.Reasons()
    assert [reasons.number(text) for text in REASONS] == list(REASONS.values())
    assert "\n".join(reasons.notes()) + "\n<!-- end -->" in TABLE


def test_wrong_figure_stands_out(script: ModuleType) -> None:
    assert script.verdict(100.00001, 100.0, 1e-6) == "yes"
    assert script.verdict(100.1, 100.0, 1e-6) == "**100.1, not 100**"


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_row_is_what_is_measured(script: ModuleType, tmp_path: Path, name: str) -> None:
    reasons = script.Reasons()
    reasons.known |= REASONS
    assert script.row(name, tmp_path, reasons) == ROWS[name]
