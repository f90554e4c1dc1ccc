"""Reads Markdown: its tables and its prose, with the lines and the headings they stand under."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from markdown_it import MarkdownIt
from markdown_it.token import Token

Headings: TypeAlias = tuple[str, ...]
"""The headings around a block, the outermost first."""

_SIGNS = str.maketrans(
    "−–‐‑‒×（），；：％＋－．０１２３４５６７８９",  # noqa: RUF001 - they are what is replaced
    "-----x(),;:%+-.0123456789",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class TableRow:
    """A row of a table."""

    line: int
    cells: tuple[str, ...]
    """Texts without markup; as many as the header has."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """A table."""

    line: int
    """Line of the header."""
    header: tuple[str, ...]
    rows: tuple[TableRow, ...]
    headings: Headings
    before: str
    """The paragraph right before the table, in the same section; or nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prose:
    """A paragraph, or an item of a list."""

    line: int
    text: str
    """Without markup; the lines of the file are its lines."""
    headings: Headings

    def line_at(self, position: int) -> int:
        """Return the line of the file on which a character of the text stands."""
        return self.line + self.text.count("\n", 0, position)


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """A Markdown file."""

    tables: tuple[Table, ...]
    prose: tuple[Prose, ...]


def parse(text: str) -> Document:
    """Return the tables and the prose of a Markdown text; code is left out."""
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    tables: list[Table] = []
    prose: list[Prose] = []
    headings: dict[int, str] = {}
    index = 0
    while index < len(tokens):
        token = tokens[index]
        path = tuple(headings.values())
        if token.type == "heading_open":
            level = int(token.tag[1:])
            headings = {key: said for key, said in headings.items() if key < level}
            headings[level] = _plain(tokens[index + 1])
            index += 2
        elif token.type == "table_open":
            end = next(i for i in range(index, len(tokens)) if tokens[i].type == "table_close")
            last = prose[-1] if prose else None
            before = last.text if last is not None and last.headings == path else ""
            tables.append(_table(tokens[index:end], path, before))
            index = end
        elif token.type == "inline" and token.map is not None:
            prose.append(Prose(line=token.map[0] + 1, text=_plain(token), headings=path))
        index += 1
    return Document(tables=tuple(tables), prose=tuple(prose))


def _table(tokens: Sequence[Token], headings: Headings, before: str) -> Table:
    header, *rows = _rows(tokens)
    return Table(
        line=header.line, header=header.cells, rows=tuple(rows), headings=headings, before=before
    )


def _rows(tokens: Sequence[Token]) -> Iterator[TableRow]:
    line, cells = 0, list[str]()
    for token in tokens:
        if token.type == "tr_open" and token.map is not None:
            line, cells = token.map[0] + 1, []
        elif token.type == "inline":
            cells.append(_plain(token))
        elif token.type == "tr_close":
            yield TableRow(line=line, cells=tuple(cells))


def _plain(token: Token) -> str:
    """Return the text of an inline token without markup, with the signs of an English keyboard."""
    breaks = ("softbreak", "hardbreak")
    parts = ("\n" if part.type in breaks else part.content for part in token.children or ())
    return "".join(parts).translate(_SIGNS).strip()
