"""The page of a report: the same tables as in Markdown, and nothing but text of what records say."""

import base64
import hashlib
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from markdown_it import MarkdownIt
from pages import Page
from repository import ROOT

from harness import extras
from harness.messages import visible
from harness.report import markdown
from harness.report.__main__ import write
from harness.report.compose import compose
from harness.report.html.library import library_of, vega
from harness.report.html.page import Content, anchor, inert_json, parted, render
from harness.report.html.runs import Behind
from harness.report.sections.section import Picture, Section
from harness.results.record import RunRecord, Status

LIBRARY = "window.vegaEmbed = 1;"
PUBLISHED = ROOT / "results" / "published"
EVIL = [
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "\"'><img src=x onerror=alert(1)>",
    "]]>&lt;&#60;&amp;",
    "{{ 7 * 7 }}{% raw %}",
    "\u05d0\u05d1\u05d2 \u202egnp.exe",
    "\U0001f469\u200d\U0001f680\U0001f9ea",
    "line\u2028break\x1b[31m",
    "x" * 3000,
]


@pytest.fixture
def section() -> Section:
    return Section(
        name="n",
        title="Ranking of m",
        text="Protocol: p\nSorted by value.",
        table=pd.DataFrame({"recipe": ["int8", "none"], "p": ["0.1", "-"]}),
        runs=["a", ""],
        picture=Picture(name="r-1", spec={"mark": "point", "title": "</script>"}),
    )


def content(*sections: Section) -> Content:
    run: Behind = {"figures": ["mmlu: 0.5"], "record": "t/m/r.json", "command": "python -m harness"}
    return Content(
        title="Report: r", head="Written by\nRecords: x", sections=sections, runs={"a": run}
    )


def markdown_tables(text: str) -> list[list[list[str]]]:
    """Tables of a Markdown text, header first, as a reader sees them."""
    tables: list[list[list[str]]] = []
    for token in MarkdownIt().enable("table").parse(text):
        if token.type == "table_open":
            tables.append([])
        elif token.type == "tr_open":
            tables[-1].append([])
        elif token.type == "inline" and tables and token.level > 3:
            shown = "".join(child.content for child in token.children or [])
            tables[-1][-1].append(shown)
    return tables


@pytest.mark.parametrize("name", ["formats-smollm2", "divergence-smollm2"])
def test_page_and_markdown_have_the_same_tables(name: str, tmp_path: Path) -> None:
    composed = compose(PUBLISHED / name, tmp_path / "r.md", tmp_path)
    page = Page(render(composed.content, LIBRARY))
    found = [[table.columns, *table.rows] for table in page.tables.values()]
    assert len(found) > 3
    assert found == markdown_tables(composed.text)


def test_rows_name_their_runs_and_the_page_has_what_is_behind_them(section: Section) -> None:
    page = Page(render(content(section, replace(section, title="Other", runs=["", "gone"])), None))
    assert page.tables["Ranking of m"].runs == ["a", None]
    assert page.tables["Other"].runs == [None, None], "a run that is not there cannot be shown"
    assert page.data["runs"]["a"]["command"] == "python -m harness"


def test_every_row_of_a_ranking_has_its_own_command(
    make_record: Callable[..., RunRecord], file_records: Callable[..., Path], tmp_path: Path
) -> None:
    commands = {"none": "quant-harness run", "int8_row": "quant-harness run +quant=int8_row"}
    records = [
        make_record(recipe, value, command=commands[recipe])
        for recipe, value in (("none", 0.5), ("int8_row", 0.48))
    ]
    failed = make_record("fp8_row", status=Status.ERROR, command="quant-harness run +quant=fp8_row")
    path = write(file_records(*records, failed), tmp_path / "out", "r", html=True)
    page = Page(path.with_suffix(".html").read_text(encoding="utf-8"))
    ranked = page.tables["Ranking against the baseline: mmlu of m (questions)"]
    said = {
        row[0]: page.data["runs"][run]["command"]
        for row, run in zip(ranked.rows, ranked.runs, strict=True)
    }
    assert said == {"baseline": commands["none"], "int8_row": commands["int8_row"]}
    (run,) = page.tables["Runs without a result"].runs
    assert run is not None
    assert page.data["runs"][run] == {
        "figures": ["mmlu: error, no result"],
        "record": f"t/m/r--{failed.run_id}.json",
        "command": "quant-harness run +quant=fp8_row",
    }
    first = page.data["runs"][ranked.runs[0]]["figures"]
    assert first == [
        "mmlu: accuracy 50.00 %, 95 % interval 45.00 % .. 55.00 %, n = 1,000 questions"
    ]


@pytest.mark.parametrize("text", EVIL)
def test_text_from_outside_stays_text(text: str, section: Section) -> None:
    run: Behind = {"figures": [text], "record": text, "command": text}
    table = pd.DataFrame({text: [text, "x"], "p": ["0.1", text]})
    picture = Picture(name="r-1", spec={"title": text})
    hostile = Section(
        name="n", title=text, text=f"{text}\nx", table=table, runs=[text, ""], picture=picture
    )
    found = Content(title=text, head=text, sections=[hostile], runs={text: run})
    page, plain = Page(render(found, LIBRARY)), Page(render(content(section), LIBRARY))
    tags = [tag for tag, _ in page.tags]
    assert set(tags) <= {tag for tag, _ in plain.tags}
    assert tags.count("script") == 3
    assert not [facts for _, facts in page.tags if any(key.startswith("on") for key in facts)]
    (shown,) = page.tables.values()
    assert (shown.columns[0], shown.rows[0][0], shown.rows[1][1]) == (visible(text),) * 3
    assert page.data["runs"][text] == run
    assert [*page.data["pictures"].values()] == [{"title": text}]


def test_json_has_no_letter_that_html_reads() -> None:
    assert not re.search("[<>&]", inert_json({"</script>": "<!-- & -->"}))


def test_only_scripts_of_the_page_run_and_nothing_is_loaded(section: Section) -> None:
    page = Page(render(content(section), LIBRARY))
    rules = dict(rule.strip().split(" ", 1) for rule in page.policy.split(";"))
    assert rules.pop("default-src") == "'none'"
    assert rules.pop("style-src") == "'unsafe-inline'"
    allowed = set(rules.pop("script-src").split())
    assert set(rules.values()) == {"'none'"}
    own = {
        f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
        for facts, text in page.scripts
        if facts.get("type") != "application/json"
    }
    assert own == allowed
    assert len(own) == 2
    links = [facts[key] for _, facts in page.tags for key in ("src", "href") if key in facts]
    assert links
    assert all(link is not None and link.startswith("#") for link in links)
    assert not re.search(r"url\(|@import", (ROOT / "harness/report/html/style.css").read_text())


def test_without_vl_convert_a_page_says_how_to_get_pictures(
    section: Section, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "is_installed", lambda _: False)
    text = render(content(section), vega())
    page = Page(text)
    assert "pip install 'llm-quant-harness[plots]'" in page.words
    assert library_of(text) is None
    assert page.data["pictures"] == {}
    assert not [tag for tag, _ in page.tags if tag == "figure"]


def test_a_page_without_pictures_has_no_library(section: Section) -> None:
    text = render(content(replace(section, picture=None)), LIBRARY)
    assert library_of(text) is None
    assert "pip install" not in Page(text).words


def test_the_library_can_be_taken_out_of_a_page(section: Section) -> None:
    found = vega()
    assert found is not None
    assert "vegaEmbed" in found
    assert 8e5 < len(found) < 1.2e6
    assert "</script" not in found.lower()
    assert library_of(render(content(section), found)) == found


def test_names_of_sections_are_unique_and_safe() -> None:
    sections = [
        Section(name="n", title=title, text="")
        for title in ("By layer: m", "By layer; m", "\u05d0 <")
    ]
    names = [anchor(section, index) for index, section in enumerate(sections)]
    assert names == ["1-by-layer-m", "2-by-layer-m", "3-"]


@pytest.mark.parametrize(
    ("line", "lead"),
    [
        ("Protocol: L=64", "Protocol:"),
        ("int8_row (skip=[]): worse", "int8_row (skip=[]):"),
        ("A path says how a recipe was run: none", ""),
        ("perplexity of m:", ""),
    ],
)
def test_a_line_begins_with_what_it_is_about(line: str, lead: str) -> None:
    found, rest = parted(line)
    assert found == lead
    assert f"{found} {rest}".strip() == line


def test_verdicts_are_colored_and_long_cells_broken(section: Section) -> None:
    cells = ["worse (p)", "better than a text", "equivalent", "cannot tell", "w" * 61]
    table = pd.DataFrame({"a": cells})
    page = Page(render(content(replace(section, table=table, runs=())), None))
    classes = [facts.get("class") for tag, facts in page.tags if tag == "td"]
    assert classes == ["bad", None, "good", "open", "long"]


def test_markdown_leaves_pictures_that_only_a_page_draws(section: Section) -> None:
    assert "![" not in markdown.render("r", "", [section])
