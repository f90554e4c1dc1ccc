"""Percentages that stand beside their two numbers, such as `5 of 6 (83 %)`: recomputed."""

import re
from collections.abc import Iterator

from harness.audit.finding import Fault, Finding
from harness.audit.study import Study

_SHARE = re.compile(
    r"(?<![\d./])(?P<part>\d[\d,]*)\s*(?:/|of|out of)\s*(?P<all>\d[\d,]*)\s*(?:[a-z]+\s*)?"
    r"[(=:]\s*(?P<percent>\d+(?:\.(?P<decimals>\d+))?)\s*%"
)


def percentages(study: Study) -> Iterator[Finding]:
    """Yield percentages in cells and sentences that are not those of their numbers."""
    document = study.document
    for table in document.tables:
        for row in table.rows:
            for cell in row.cells:
                yield from (Finding(row.line, Fault.PERCENTAGE, text) for _, text in _wrong(cell))
    for said in document.prose:
        yield from (
            Finding(said.line_at(at), Fault.PERCENTAGE, text) for at, text in _wrong(said.text)
        )


def _wrong(text: str) -> Iterator[tuple[int, str]]:
    for found in _SHARE.finditer(text):
        part, whole = (int(found[name].replace(",", "")) for name in ("part", "all"))
        decimals = len(found["decimals"] or "")
        if not 0 < whole >= part:
            continue
        percent = 100 * part / whole
        if abs(percent - float(found["percent"])) > 0.5 * 10.0**-decimals * (1 + 1e-9):
            yield (
                found.start(),
                f"{part:,} of {whole:,} is {percent:.{max(decimals, 1)}f} %, "
                f"printed {found['percent']} %",
            )
