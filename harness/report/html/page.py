"""Fills the template of a page. All text of records stands in it as text, never as markup."""

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import pandas as pd

from harness import extras
from harness.claims.verdict import Verdict
from harness.messages import visible
from harness.report.html.runs import Behind
from harness.report.sections.section import Picture, Section

HERE = Path(__file__).parent
SCRIPTS = ("scheme.js", "tables.js", "card.js", "pictures.js")
"""Files of JavaScript, in the order in which they run."""
VERDICTS = {
    Verdict.WORSE: "bad",
    Verdict.BETTER: "good",
    Verdict.EQUIVALENT: "good",
    Verdict.CANNOT_TELL: "open",
}
"""Verdict -> class that colors its cell."""
LEAD = re.compile(r"((?:[^ .:;]+ ){0,2}[^ .:;]+:) (.+)", re.DOTALL)
"""A line that begins with what it is about, in up to three words."""
LONG = 60
"""Longer cells are broken into lines."""
ENDLESS = 400
"""Longer cells scroll, such as the whole error of a run."""
NO_LIBRARY = (
    "This page has no pictures, because vl-convert is not installed: "
    f"{extras.install('plots')}, and write the page again."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Content:
    """What a page shows."""

    title: str
    head: str
    """Lines below the title."""
    sections: Sequence[Section]
    runs: Mapping[str, Behind]
    """Run id -> the run, for rows that name one in `Section.runs`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Row:
    """A row of a table."""

    run: str
    cells: Sequence[str]


def render(content: Content, library: str | None) -> str:
    """Return a page.

    Args:
        content: What it shows.
        library: The scripts that draw pictures; see `harness.report.html.library`. A page of
            sections without pictures leaves them out.
    """
    specs = {
        anchor(each, i): spec for i, each in enumerate(content.sections) if (spec := _spec(each))
    }
    drawn = library if specs else None
    script = "\n".join(_source(name) for name in SCRIPTS)
    style = _source("style.css")
    template = _environment().from_string(_source("page.html"))
    return template.render(
        content=content,
        policy=_policy([script, *([drawn] if drawn else [])]),
        style=style,
        script=script,
        library=drawn,
        missing=NO_LIBRARY if specs and not drawn else None,
        data=inert_json({"runs": content.runs, "pictures": specs if drawn else {}}),
    )


def anchor(section: Section, index: int) -> str:
    """Return the name of a section in addresses: unique, and readable where it can be."""
    words = re.sub(r"[^a-z0-9]+", "-", section.title.lower()).strip("-")[:60]
    return f"{index + 1}-{words}"


def parted(line: str) -> tuple[str, str]:
    """Return what a line is about, such as `Protocol:` or the name of a recipe, and the rest."""
    found = LEAD.match(line)
    return (found[1], found[2]) if found else ("", line)


def inert_json(data: object) -> str:
    """Return JSON that HTML cannot take for markup: it has no `<`, `>` and `&`."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text


def _spec(section: Section) -> Mapping[str, object] | None:
    """Return the Vega-Lite specification of a section's picture."""
    return section.picture.spec if isinstance(section.picture, Picture) else None


def _environment() -> jinja2.Environment:
    made = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters |= {"visible": visible, "rows": _rows, "class": _class, "anchor": anchor}
    made.filters["parted"] = parted
    made.tests["drawn"] = lambda section: _spec(section) is not None
    made.tests["endless"] = lambda cell: len(cell) > ENDLESS
    return made


def _rows(section: Section) -> list[_Row]:
    """Return the rows of a section's table with the run behind each."""
    table = section.table if section.table is not None else pd.DataFrame()
    runs = section.runs or [""] * len(table)
    return [
        _Row(run=run, cells=cells)
        for run, cells in zip(runs, table.itertuples(index=False, name=None), strict=True)
    ]


def _class(cell: str) -> str:
    """Return the classes of a cell."""
    # What a verdict rests on follows in brackets: `equivalent (p of 1 pp or more = 0.01)`.
    verdict = next(
        (name for word, name in VERDICTS.items() if f"{cell} (".startswith(f"{word} (")), ""
    )
    return " ".join(filter(None, (verdict, "long" if len(cell) > LONG else "")))


def _policy(scripts: Sequence[str]) -> str:
    """Return the policy of a page: nothing is loaded, and no script runs but its own.

    Vega sets the style of what it draws by attributes, which a hash cannot allow.
    """
    hashes = " ".join(f"'sha256-{_hash(text)}'" for text in scripts)
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _source(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")
