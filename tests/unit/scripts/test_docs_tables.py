"""Measured figures in README and docs are those of files under `results/`."""

import json
import re
from pathlib import Path

import pytest
from script_modules import load_script

ROOT = Path(__file__).parents[3]
ELSEWHERE = {
    "| scale for | bits/weight | INT8 | FP8 E4M3 |": "tests/unit/report/test_readme_figures.py",
    "| format | bits/weight | perplexity | log-loss above the baseline [nat/token] |": "the same",
    "| backend | float32 | bfloat16 | float16 | where they may differ |": "tolerances, chosen by arithmetic",
    "| answers that flip | to see 0.5 points | to see 1 point | to see 2 points |": "a formula above it",
}
"""Tables of numbers that other tests hold against a file, or that were chosen and not measured; by their first line."""
FIGURE = re.compile(
    r"[+-]?\d[\d,]*(\.\d+)?(e-?\d+)?\s*(%|s|ms|x|GB/s|token/s|MB|times)?(\s*[(\[].*)?"
)
"""A cell that is a measured figure: a number, perhaps with a unit and an interval."""


docs_tables = load_script("docs_tables")
schemes_table = load_script("schemes_table")
DOCUMENTS = docs_tables.DOCUMENTS


def tables_by_hand(text: str) -> list[str]:
    """Return the tables of a document that no file under `results/` is named for."""
    own = schemes_table.REGION.sub("", docs_tables.REGION.sub("", text))
    return re.findall(r"(?:^\|.*\n)+", own, re.MULTILINE)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_table_is_what_its_file_says(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    assert docs_tables.rendered(text) == text


def figures(table: str) -> list[str]:
    """Return the cells of a table that are figures; whole numbers alone are counts, widths and versions."""
    cells = (cell.strip(" `") for line in table.splitlines() for cell in line.strip("|").split("|"))
    return [c for c in cells if FIGURE.fullmatch(c) and re.search(r"\.\d|e-|%|s\b|MB|times", c)]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_no_other_table_has_measured_figures(document: Path) -> None:
    tables = tables_by_hand(document.read_text(encoding="utf-8"))
    unknown = {t.splitlines()[0]: figures(t) for t in tables if t.splitlines()[0] not in ELSEWHERE}
    assert {first: found for first, found in unknown.items() if found} == {}


def test_a_figure_in_a_table_by_hand_is_seen() -> None:
    table = "| a | b |\n|---|---|\n| `int4_row` | 3.307 |\n| 2.57 [2.49, 2.68], faster | 45 s |\n| 4 | INT8 |\n"
    assert figures(table) == ["3.307", "2.57 [2.49, 2.68], faster", "45 s"]
    assert tables_by_hand(f"text\n\n{table}\nmore\n") == [table]


def test_a_table_is_written_from_its_file_and_only_its_file(tmp_path: Path) -> None:
    region = "a\n<!-- table: exactness from results/x.json -->\n{}<!-- end of table -->\nb\n"
    absent = docs_tables.rendered(region.format("| old | 1.5 |\n"), tmp_path)
    assert absent == region.format("*Not measured yet: `results/x.json` does not exist.*\n")
    made = {"cpu": "C", "cpu_flags": ["avx2", "bf16"], "threads": 2}
    errors = {"float32": 1.25e-7, "float16": "refused"}
    (tmp_path / "results").mkdir()
    text = json.dumps({"recipes": {"r": errors}, "provenance": made})
    (tmp_path / "results" / "x.json").write_text(text)
    assert docs_tables.rendered(absent, tmp_path) == region.format(
        "| C (bf16), 2 threads | float32 | float16 |\n| --- | --- | --- |\n| `r` | 1.2e-07 | "
        "unsupported |\n\nFrom `results/x.json`.\n"
    )


def test_speeds_of_two_machines_stand_side_by_side(tmp_path: Path) -> None:
    def file(name: str, cpu: str, tables: dict[str, list[tuple[str, float, float]]]) -> None:
        made = {"cpu": cpu, "cpu_flags": [], "threads": 2}
        rows = {
            title: [
                {"name": n, "prefill_tokens_per_s": p, "decode_tokens_per_s": d}
                for n, p, d in all_of
            ]
            for title, all_of in tables.items()
        }
        text = json.dumps({"about": {"provenance": made}, "tables": rows})
        (tmp_path / name).write_text(text)

    file("smollm2.json", "A", {"float": [("eager", 222.0, 31.44)], "w": [("eager", 9, 9), ("w", 705.3, 33.5)]})  # fmt: skip
    file("smollm2_b.json", "B", {"float": [("eager", 652.0, 40.0)]})
    a, b = (f"{cpu} (neither vnni nor bf16), 2 threads" for cpu in "AB")
    assert docs_tables.request_speeds(tmp_path) == [
        ["[token/s]", f"{a}: prefill", f"{a}: decode", f"{b}: prefill", f"{b}: decode"],
        ["unquantized model, eager", "222", "31.4", "652", "40.0"],
        ["w", "705", "33.5", "-", "-"],
    ]


def test_rest_of_a_step_is_what_its_parts_leave(tmp_path: Path) -> None:
    made = {"cpu": "C", "cpu_flags": [], "threads": 1}
    table = {"step": 30.0, "products": 20.0, "attention": 1.5, "compiled graph": 0.0}
    file = tmp_path / "b.json"
    file.write_text(json.dumps({"about": {"provenance": made}, "tables": {"eager": table}}))
    rows = dict(docs_tables.steps(file)[1:])
    assert rows == {
        "products": "20.0",
        "attention": "1.5",
        "the rest: Python and dispatch": "8.5",
        "a token": "30.0",
    }
