"""The tables of docs/choose.md are what backends, layouts and kernels answer."""

from script_modules import load_script

schemes_table = load_script("schemes_table")


def test_every_cell_is_what_the_code_says() -> None:
    page = schemes_table.PAGE.read_text(encoding="utf-8")
    assert schemes_table.rendered(page) == page
    assert page.count("| yes |") > 20
    assert page.count("| - |") > 20


def test_the_tables_name_every_recipe_that_they_promise() -> None:
    page = schemes_table.PAGE.read_text(encoding="utf-8")
    assert [n for n in (*schemes_table.REAL, *schemes_table.EXPORTED) if f"`{n}`" not in page] == []
