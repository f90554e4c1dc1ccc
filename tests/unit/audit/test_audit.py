"""A document with one fault of each kind, a document without any, and the project's own pages."""

from pathlib import Path

import numpy as np
import pytest
from repository import ROOT

from harness.audit import Fault, Finding, audit
from harness.audit.study import study

FOLDER = Path(__file__).parent
FAULTS = {
    (7, "no interval"), (7, "unit"), (9, "gap"), (10, "gap"), (11, "difference"), (11, "gap"),
    (11, "order"),
    (16, "bfloat16"), (19, "bfloat16"), (21, "bfloat16"),
    (25, "no interval"), (25, "pairs"), (25, "spread"), (27, "gap"), (27, "granularity"),
    (28, "gap"), (29, "gap"), (30, "gap"), (31, "gap"), (32, "mean"), (34, "sentence"),
    (35, "sentence"), (46, "sentence"),
    (50, "baseline"), (50, "no interval"), (52, "baseline"), (52, "gap"), (57, "sentence"),
    (61, "no baseline"), (64, "difference"), (70, "no baseline"), (72, "no baseline"),
    (76, "percentage"),
}  # fmt: skip
"""Line and kind of every fault of `faulty.md`."""
OWN_PAGES = [
    *(ROOT / name for name in ("README.md", "README.zh.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "reports" / "published").glob("*.md")),
]


def findings(text: str, given: int | None = None) -> list[Finding]:
    return audit(study(text, given))


def texts(text: str, check: str, given: int | None = None) -> list[str]:
    return [found.text for found in findings(text, given) if found.fault == check]


def test_each_kind_of_fault_is_found_on_its_line_and_nothing_else() -> None:
    found = findings((FOLDER / "faulty.md").read_text(encoding="utf-8"))
    assert {(each.line, each.fault) for each in found} == FAULTS


@pytest.mark.parametrize("name", ["clean.md", "styles.md"])
def test_a_clean_document_has_no_findings(name: str) -> None:
    assert findings((FOLDER / name).read_text(encoding="utf-8"), 1000) == []


def test_pages_of_the_project_have_no_findings() -> None:
    found = [
        (path.name, each)
        for path in OWN_PAGES
        for each in findings(path.read_text(encoding="utf-8"))
    ]
    assert found == []


def test_a_repeated_finding_names_all_its_lines() -> None:
    table = "\n| | FP8 |\n|---|---|\n| a | 1.0 |\n| b | 2.0 |\n| c | 3.0 |\n| mean | 2.5 |\n"
    assert findings(f"{table}\n{table}") == [
        Finding(7, Fault.MEAN, "FP8: the 3 rows above have the mean (1.0 + 2.0 + 3.0) / 3 = 2.00, "
                "printed 2.5 (also line 15)")
    ]  # fmt: skip


def test_findings_say_the_arithmetic() -> None:
    text = (FOLDER / "faulty.md").read_text(encoding="utf-8")
    [wrong_mean, _] = texts(text, "mean")
    assert "(49.90 + 49.50 + 49.10 + 48.80 + 48.20) / 5 = 49.10, printed 49.00" in wrong_mean
    deltas = texts(text, "difference")
    assert deltas[0].endswith("59.00 - 60.00 = -1.00, printed -2.00 %")
    assert deltas[1].endswith("17.02 / 18.44 - 1 = -7.70 %, printed -8.70 %")
    [unit] = texts(text, "unit")
    assert "57.00 - 60.00 = -3.00 pp; the relative change is -5.00 %" in unit
    assert texts(text, "percentage") == ["12 of 20 is 60.0 %, printed 66 %"]
    assert '"average 48.95" beside FP8 (%), whose 5 rows have the mean 49.10' in " ".join(
        texts(text, "sentence")
    )


def test_a_gap_without_a_number_of_samples_says_so_and_how_many_it_takes() -> None:
    table = "| | MMLU (%) | vs BF16 (pp) |\n|---|---|---|\n| BF16 | 50.6 | - |\n| a | 50.9 | +0.3 |"
    [found] = texts(table, "gap")
    # Six answers of 2,000 are 0.3 pp.
    assert "the number of samples is not said" in found
    assert "only with 2,000 samples or more" in found
    [given] = texts(table, "gap", 1000)
    assert "+0.30 pp is a net 3 flips of 1,000; p is 0.25 or more" in given


@pytest.mark.parametrize("with_error", ["95 % interval", "±", "stderr", "p"])
def test_a_table_with_its_own_evidence_is_not_judged(with_error: str) -> None:
    table = (
        f"| | MMLU (%) | vs BF16 (pp) | {with_error} |\n|---|---|---|---|\n"
        "| BF16 | 50.6 | - | - |\n| a | 50.9 | +0.3 | 0.2 |"
    )
    assert findings(table, 1000) == []


def correct_study(rng: np.random.Generator) -> list[list[str]]:
    """Return rows of a table whose differences, changes and means come from unrounded values."""
    decimals = int(rng.integers(1, 5))
    values = rng.uniform(5, 60, 7)
    rows = [["BF16", f"{values[0]:.{decimals}f}", "-", "-"]]
    for i, value in enumerate(values[1:]):
        change = 100 * (value / values[0] - 1)
        delta = f"{value - values[0]:+.{decimals}f}"
        rows.append([f"scheme {i}", f"{value:.{decimals}f}", delta, f"{change:+.2f} %"])
    rows.append(["average", f"{values.mean():.{decimals}f}", "-", "-"])
    return rows


def as_table(rows: list[list[str]]) -> str:
    head = [["scheme", "score", "difference", "relative change"], ["---"] * 4]
    return "\n".join(f"| {' | '.join(row)} |" for row in head + rows)


def test_rounded_numbers_are_no_fault_and_a_changed_digit_is() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        rows = correct_study(rng)
        assert findings(as_table(rows)) == [], as_table(rows)
        row, column = int(rng.integers(1, 7)), int(rng.integers(2, 4))
        digits = list(rows[row][column])
        place = digits.index(".") - 1  # the ones: far more than rounding moves
        digits[place] = str((int(digits[place]) + 5) % 10)
        rows[row][column] = "".join(digits)
        [found] = findings(as_table(rows))
        assert (found.line, found.fault) == (row + 3, "difference"), as_table(rows)


CELLS = [
    *("", "-", "0", "0.00", "-1.5", "50.6 %", "1e9", "33.75", "1e-30", "2.0x", "5/6 (83 %)"),
    *("🥇 1", "2", "BF16", "baseline", "average", "int8_row", "per-group-64", "±", "nan", "|"),
]
HEADERS = [
    *("rank", "scheme", "model", "n", "MMLU (%)", "PPL", "loss", "vs BF16", "vs. X", "ratio"),
    *("average", "decode (tokens/s)", "difference", "p", "INT8", "FP8"),
]


def test_no_table_breaks_the_audit() -> None:
    rng = np.random.default_rng(1)
    for _ in range(300):
        width = int(rng.integers(1, 6))
        head, rule = rng.choice(HEADERS, width), ["---"] * width
        rows = [rng.choice(CELLS, width) for _ in range(int(rng.integers(0, 7)))]
        lines = [f"| {' | '.join(row)} |" for row in (head, rule, *rows)]
        text = "\n".join([*lines, "", "a > b > c, 2-3x, 3/4 better, average 33.75, INT8 2.00 %"])
        for found in findings(text, 100):
            assert 1 <= found.line <= len(lines) + 2


def test_every_kind_of_fault_is_described_and_in_the_faulty_document() -> None:
    page = (ROOT / "docs" / "audit.md").read_text(encoding="utf-8")
    described = [line.split("`")[1] for line in page.splitlines() if line.startswith("| `")]
    assert described == list(Fault)
    assert {kind for _, kind in FAULTS} == set(Fault) - {Fault.REPLICATION}
