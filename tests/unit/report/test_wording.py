"""Claim lint: generated text has no bold, no rank, and no verdict without the test behind it."""

import json
import re
from pathlib import Path

import pytest
from repository import ROOT

REPORTS = sorted((ROOT / "reports" / "published").glob("*-smollm2.md"))
RANKS = re.compile(
    r"\b(best|worst|winner|wins?|medals?|superior|lossless|significant(ly)?|rank(ed|ing)?"
    r"|outperform(s|ed)?|beats?|exceeds?|leads?\b(?! of)"
    r"|(?<!signed )ranks)\b",
    re.I,
)
BOLD = re.compile(r"(?<!\\)\*\*|(?<![\\\w])__(?=\w)|</?(?:b|strong|em|i)>", re.I)
VERDICT = re.compile(r"\b(worse|better|equivalent|faster|slower)\b")
TEST = re.compile(r"\bp [=<] |Holm|McNemar|signed ranks| t by |\bp < ")
EXPLAINS = re.compile(
    r"(lower|higher) is better|Faster or slower is said|the faster (of|products)|is not known"
    r"|a verdict (is|needs)|the verdict is \"",
    re.I,
)
"""Sentences that say what a word means, or where it is used."""


def faults(text: str) -> list[str]:
    """Return what a text claims without saying how it was tested, and what it boasts of."""
    text = text.replace("Ranking against the baseline", "Against the baseline")
    text = text.replace("has its p and the verdict", "").replace("the ranking", "the table")
    found = ["bold" for _ in BOLD.finditer(text)]
    header: list[str] = []
    for line in text.splitlines():
        if line.startswith("|"):
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            header = header if header else cells
            found += _of_row(dict(zip(header, cells, strict=True)))
            continue
        header = []
        found += [match.group() for match in RANKS.finditer(line)]
        found += [
            sentence
            for sentence in re.split(r"(?<=\.)\s", line)
            if VERDICT.search(sentence)
            and not TEST.search(sentence)
            and not EXPLAINS.search(sentence)
        ]
    return found


def _of_row(row: dict[str, str]) -> list[str]:
    """Return the verdicts of a table row that stand without a p in the row or in their cell."""
    p = row.get("p", "-")
    return [
        cell
        for cell in row.values()
        if VERDICT.search(cell)
        and not (TEST.search(cell) or EXPLAINS.search(cell))
        and not re.fullmatch(r"\d[\d.e-]*", p)
    ]


@pytest.mark.parametrize("path", REPORTS, ids=lambda path: path.stem)
def test_reports_claim_nothing_without_its_test(path: Path) -> None:
    assert faults(path.read_text()) == []


@pytest.mark.parametrize("path", REPORTS, ids=lambda path: path.stem)
def test_sentences_of_claims_name_their_test(path: Path) -> None:
    claims = json.loads(path.with_suffix(".json").read_text())["claims"]
    sentences = [claim["sentence"] for claim in claims if claim["sentence"] is not None]
    assert faults("\n".join(sentences)) == []


@pytest.mark.parametrize(
    "text",
    [
        "**int8_row** was measured.",
        "int8_row is the best recipe.",
        "int8_row: worse than baseline by 0.2 %.",
        "| recipe | p | verdict |\n|:--|:--|:--|\n| int8 | - | worse |",
        "INT8 ranks first.",
        "The verdict: int8_row is worse.",
        "__int8_row__ was measured.",
        "<b>int8_row</b> was measured.",
        "INT8 outperforms FP8.",
        "INT8 beats FP8 (p = 0.01).",
    ],
)
def test_the_lint_finds(text: str) -> None:
    assert faults(text)


def test_the_lint_lets_a_tested_claim_pass() -> None:
    assert not faults(
        "int8_row: worse than baseline (difference +0.2 %; p = 0.004; t by document)."
    )
    assert not faults("| recipe | p | verdict |\n|:--|:--|:--|\n| int8 | 0.004 | worse |")
