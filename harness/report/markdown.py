"""Writes sections as Markdown. Names and messages come from outside, so all text is escaped."""

import html
import re
from collections.abc import Sequence
from urllib.parse import quote

from tabulate import tabulate

from harness.report.sections.section import Section

SPECIAL = re.compile(r"([\\`*_\[\]|~#])")
"""What Markdown would take for markup."""
UNSEEN = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Control characters, and those that turn the direction of the text after them."""


def render(title: str, introduction: str, sections: Sequence[Section]) -> str:
    """Return a document: a title, an introduction, and the sections in order."""
    parts = [f"# {escape(title)}", introduction]
    for section in sections:
        parts.append(f"## {escape(section.title)}")
        # Two spaces at the end of a line keep the break.
        parts.append("  \n".join(escape(line) for line in section.text.splitlines()))
        if section.picture is not None:
            # Quoted: a link ends at a space or a bracket, and a colon would begin an address.
            parts.append(f"![{escape(section.title)}]({quote(section.picture)})")
        if section.table is not None:
            # What `DataFrame.map` and `to_markdown` do, in a tenth of the time.
            rows = [[escape(cell) for cell in row] for row in section.table.to_numpy().tolist()]
            columns = [escape(str(column)) for column in section.table]
            parts.append(tabulate(rows, columns, tablefmt="pipe", disable_numparse=True))
    return "\n\n".join(part for part in parts if part) + "\n"


def escape(text: str) -> str:
    """Return a text on one line that Markdown shows letter by letter, without markup and HTML."""
    seen = UNSEEN.sub(lambda found: ascii(found[0])[1:-1], " ".join(text.split()))
    return SPECIAL.sub(r"\\\1", html.escape(seen, quote=False))
