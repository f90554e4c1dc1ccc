"""Tables and prose of Markdown, with their lines."""

from harness.audit.document import parse

TEXT = """\
# Title

Words of
two lines (**bold**).

## Part

- an item with 5\u20136 signs

> | a | `b\\|c` |
> |---|:-:|
> | **1** | x \\| y |

```
| not | a table |
|---|---|
```
"""


def test_tables_have_lines_headings_and_texts_without_markup() -> None:
    [table] = parse(TEXT).tables
    assert (table.line, table.headings) == (10, ("Title", "Part"))
    assert table.header == ("a", "b|c")
    assert [(row.line, row.cells[0]) for row in table.rows] == [(12, "1")]
    assert table.rows[0].cells[1] == "x | y"
    assert table.before == "an item with 5-6 signs"


def test_prose_has_the_line_of_each_character() -> None:
    first, item = parse(TEXT).prose
    assert (first.text, first.headings) == ("Words of\ntwo lines (bold).", ("Title",))
    assert (first.line_at(0), first.line_at(first.text.index("two"))) == (3, 4)
    assert (item.line, item.headings) == (8, ("Title", "Part"))


def test_a_heading_ends_the_headings_below_it() -> None:
    found = parse("# A\n\n### B\n\n## C\n\nwords\n").prose
    assert [each.headings for each in found] == [("A", "C")]


def test_signs_and_digits_of_other_keyboards_are_english_ones() -> None:
    [table] = parse("| a |\n|---|\n| \u22120.5 \u20110.7 \uff0b\uff16\uff0e\uff10\uff05 |\n").tables
    assert table.rows[0].cells == ("-0.5 -0.7 +6.0%",)
