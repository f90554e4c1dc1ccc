"""A page of a report, read with Python's own HTML parser."""

import json
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any


@dataclass
class Table:
    columns: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    runs: list[str | None] = field(default_factory=list)
    """Run id behind each row."""


class Page(HTMLParser):
    """What a browser would find in a page."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: dict[str, Table] = {}
        """Title of a section -> its table."""
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.text: list[str] = []
        self._title: str = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()

    @property
    def words(self) -> str:
        return "".join(self.text)

    @property
    def data(self) -> dict[str, Any]:
        (found,) = (text for facts, text in self.scripts if facts.get("id") == "data")
        return json.loads(found)  # type: ignore[no-any-return]

    @property
    def policy(self) -> str:
        (found,) = (
            facts["content"] or ""
            for tag, facts in self.tags
            if tag == "meta" and facts.get("http-equiv") == "Content-Security-Policy"
        )
        return found

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        facts = dict(attrs)
        self.tags.append((tag, facts))
        if tag not in ("meta", "input"):
            self._open.append(tag)
        if tag == "h2":
            self._title = ""
        elif tag == "script":
            self.scripts.append((facts, ""))
        elif tag == "table":
            self.tables[self._title] = Table()
        elif tag == "tr" and "tbody" in self._open:
            self._table.rows.append([])
            self._table.runs.append(facts.get("data-run"))
        elif tag == "td":
            self._table.rows[-1].append("")
        elif tag == "th":
            self._table.columns.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, f"{tag} closes what it did not open"

    def handle_data(self, data: str) -> None:
        place = self._open[-1] if self._open else ""
        if place == "script":
            facts, text = self.scripts[-1]
            self.scripts[-1] = facts, text + data
        elif place == "h2":
            self._title += data
        elif "td" in self._open:
            self._table.rows[-1][-1] += data
        elif place == "th":
            self._table.columns[-1] += data
        if place not in ("script", "style"):
            self.text.append(data)

    @property
    def _table(self) -> Table:
        return self.tables[self._title]
