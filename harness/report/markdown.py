"""Writes sections as Markdown. Names and messages come from outside, so all text is escaped."""

import html
import re
from collections.abc import Sequence
from urllib.parse import quote

from harness.messages import visible
from harness.report.sections.section import Section

SPECIAL = re.compile(r"([\\`*_\[\]|~#])")
"""What Markdown would take for markup."""
NAME = re.compile(
    r"(?<![\w`\\])([A-Za-z0-9/](?:[\w./=+-]*_)[\w./=+-]*[A-Za-z0-9])(?![\w`])", re.ASCII
)
"""A name as recipes, formats and files have: letters, digits and few signs, an underscore among
them. None of these characters ends a code span, a cell or a line."""


def render(title: str, introduction: str, sections: Sequence[Section]) -> str:
    """Return a document: a title, an introduction, and the sections in order."""
    parts = [f"# {escape(title)}", introduction]
    for section in sections:
        parts.append(f"## {escape(section.title)}")
        # Two spaces at the end of a line keep the break.
        parts.append("  \n".join(_line(line) for line in section.text.splitlines()))
        if isinstance(section.picture, str):
            # Quoted: a link ends at a space or a bracket, and a colon would begin an address.
            parts.append(f"![{escape(section.title)}]({quote(section.picture)})")
        if section.table is not None:
            cells = section.table.map(escape).rename(columns=escape)
            parts.append(cells.to_markdown(index=False, disable_numparse=True))
    return "\n\n".join(part for part in parts if part) + "\n"


def _line(text: str) -> str:
    """Return a line of text; a dash at its beginning would begin a list that takes in the rest."""
    return re.sub(r"^-(?= )", r"\\-", escape(text))


def escape(text: str) -> str:
    """Return a text on one line that Markdown shows letter by letter, without markup and HTML.

    Names with an underscore become code spans: `int8_row`, which can be copied as it is.
    """
    parts = NAME.split(visible(text))
    # The names stand between the other parts, at the odd places.
    return "".join(
        f"`{part}`" if index % 2 else SPECIAL.sub(r"\\\1", html.escape(part, quote=False))
        for index, part in enumerate(parts)
    )
