"""The claims beside a report: Markdown, JSON and CSV say the same numbers."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from repository import ROOT

from harness.claims.flat import FIELDS, Cell
from harness.report.claims_files import as_csv, as_json
from harness.results import formatting as figures

REPORTS = sorted((ROOT / "reports" / "published").glob("*-smollm2.md"))


def claims_of(path: Path) -> list[dict[str, Cell]]:
    found: list[dict[str, Cell]] = json.loads(path.with_suffix(".json").read_text())["claims"]
    return found


@pytest.mark.parametrize("path", REPORTS, ids=lambda path: path.stem)
def test_csv_has_the_numbers_of_json(path: Path) -> None:
    with path.with_suffix(".csv").open(newline="") as stream:
        read = [*csv.DictReader(stream)]
    claims = claims_of(path)
    assert len(read) == len(claims)
    for row, claim in zip(read, claims, strict=True):
        for field in FIELDS:
            value = claim[field]
            cell = row[field]
            if isinstance(value, str):
                assert cell == value
            else:
                assert (float(cell) if cell else None) == value


@pytest.mark.parametrize("path", REPORTS, ids=lambda path: path.stem)
def test_markdown_has_the_numbers_of_json(path: Path) -> None:
    """Each comparison is a table row with its recipe, value, p and verdict."""
    rows = [
        [cell.strip().replace("\\", "").strip("`") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in path.read_text().splitlines()
        if line.startswith("|")
    ]
    for claim in claims_of(path):
        if claim["difference_unit"] == "ratio":  # in the middle of a cell of the speeds
            continue
        p = claim["p_holm"]
        wanted = {claim["recipe"], figures.MISSING if p is None else figures.p_value(float(p))}
        wanted |= {claim["verdict"] or "-"}
        matching = [row for row in rows if wanted <= set(row)]
        assert matching, wanted
        numbers = {float(cell.rstrip(" %")) for row in matching for cell in row if _is_number(cell)}
        shown = float(claim["value"] or 0) * (100 if claim["unit"] == "fraction" else 1)
        assert any(number == pytest.approx(shown, rel=1e-3) for number in numbers)


def samples_of(path: Path, record: object) -> pd.DataFrame:
    """Samples of a published record, read without the harness."""
    folder = ROOT / "results" / "published" / path.stem
    (file,) = folder.rglob(str(record))
    name = json.loads(file.read_text())["samples_file"]
    return pd.read_parquet(file.with_name(name)).set_index("id").sort_index()


@pytest.mark.parametrize("path", REPORTS, ids=lambda path: path.stem)
def test_differences_are_those_of_the_samples(path: Path) -> None:
    """Recomputed from the parquet files with pandas alone: no digit can be changed unseen."""
    for claim in claims_of(path):
        if claim["reference_record"] is None or claim["measure"] not in ("accuracy", "log_loss"):
            continue
        own, base = (samples_of(path, claim[key]) for key in ("record", "reference_record"))
        assert [*own.index] == [*base.index]
        if claim["measure"] == "accuracy":
            wanted = 100 * float((own["correct"] - base["correct"]).mean())
        else:
            sums = [np.concatenate([*each["token_nll"]]) for each in (own, base)]
            wanted = 100 * float(np.expm1((sums[0] - sums[1]).mean()))
        # The NLL of a token is stored in float32, that of a window in float64.
        assert claim["difference"] == pytest.approx(wanted, rel=1e-6, abs=1e-7)


def test_the_published_claims_have_differences() -> None:
    measures = [claim["measure"] for path in REPORTS for claim in claims_of(path)]
    assert {"accuracy", "log_loss"} <= set(measures)


@pytest.mark.parametrize("path", REPORTS, ids=lambda path: path.stem)
def test_computed_numbers_have_the_digits_that_all_processors_share(path: Path) -> None:
    computed = ("p_holm", "q_benjamini_hochberg", "p_margin_holm", "margin")
    values = [claim[field] for claim in claims_of(path) for field in computed]
    numbers = [value for value in values if isinstance(value, float)]
    assert numbers == [float(f"{number:.10g}") for number in numbers]


def _is_number(cell: str) -> bool:
    return re.fullmatch(r"-?\d+(\.\d+)?( %)?", cell) is not None


@pytest.mark.parametrize("text", ["=1+1", "+quant=x", "-x", "@sum", "\tx"])
def test_a_text_that_a_spreadsheet_would_run_is_inert(text: str) -> None:
    row = dict.fromkeys(FIELDS, "plain") | {"recipe": text, "difference": -0.25}
    [read] = csv.DictReader(as_csv([row]).splitlines())
    assert read["recipe"] == f"'{text}"
    assert read["difference"] == "-0.25"


def test_no_claims_are_an_empty_list_and_a_header() -> None:
    assert json.loads(as_json([]))["claims"] == []
    assert as_csv([]).strip() == ",".join(FIELDS)
