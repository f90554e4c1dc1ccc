"""The figures of docs/results.md are those of the reports it names."""

import re

from repository import ROOT


def test_every_figure_of_the_result_table_is_in_the_report() -> None:
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    names = ("granularity-smollm2", "formats-smollm2")
    report = "".join(
        (ROOT / f"reports/published/{name}.md").read_text(encoding="utf-8") for name in names
    )
    table = page.split("## What it found", 1)[1].split("\n## ", 1)[0]
    figures = re.findall(r"[+-]?\b\d+\.\d{3,5}\b", table)
    assert len(figures) >= 60
    assert [figure for figure in figures if figure not in report] == []
