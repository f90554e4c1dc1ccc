"""What Markdown shows is what a section says; read back by markdown-it."""

from markdown_it import MarkdownIt

from harness.report.markdown import render
from harness.report.sections.section import Section


def test_a_line_with_a_dash_begins_no_list() -> None:
    # A list would take in the lines after it, such as those of the next group.
    text = "perplexity of m:\n- Worse (%): int8_row +5.\nmmlu of m:"
    tokens = MarkdownIt().parse(render("t", "i", [Section(name="n", title="T", text=text)]))
    assert not [token.type for token in tokens if "list" in token.type]
    shown = tokens[-2].children or []
    assert "".join(each.content or "\n" for each in shown) == text
