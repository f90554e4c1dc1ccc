"""The page of a report in a browser without a network: what it does, at the width of a desk and of a phone."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
from playwright.sync_api import Browser, Page, sync_playwright
from repository import ROOT

from harness.report.compose import compose
from harness.report.html.library import vega
from harness.report.html.page import Content, render
from harness.report.html.runs import Behind
from harness.report.sections.section import Picture, Section
from harness.results.store import read

REQUIRED = os.environ.get("HARNESS_BROWSER") == "required"
CHROMIUM = shutil.which("chromium")
NAMES = ["baseline", "int8_row", "int4_g64", "int4_g128", "fp8 </script><script>alert(1)</script>"]
STUDY = ROOT / "results" / "published" / "divergence-smollm2"
DRAWN = {
    "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
    "data": {"values": [{"x": 1, "y": 2}, {"x": 2, "y": 3}]},
    "transform": [{"calculate": "datum.y * 2", "as": "z"}],
    "mark": "point",
    "width": 700,
    "encoding": {
        "x": {"field": "x", "type": "quantitative"},
        "y": {"field": "z", "type": "quantitative"},
        "tooltip": {"field": "z"},
    },
}

pytestmark = pytest.mark.skipif(
    CHROMIUM is None and not REQUIRED,
    reason="needs chromium; HARNESS_BROWSER=required makes its absence an error",
)


def section(title: str) -> Section:
    table = pd.DataFrame(
        {
            "recipe": NAMES,
            "perplexity": ["9.5", "10.25", "1,100.0", "11.0", "-"],
            "its 95 % interval": ["-", "+0.1 % .. +0.3 %", "+10 % .. +12 %", "-2 % .. +1 %", "-"],
            "p": ["-", "0.03", "5e-10", "1.2e-05", "-"],
            "verdict": ["-", "worse", "worse", "cannot tell", "not compared"],
            "note": ["", "w" * 3000, "\u05d0\u05d1\u05d2", "\U0001f9ea", "a plain note"],
        }
    )
    return Section(
        name="n",
        title=title,
        text="Protocol: p\nint8_row: worse than baseline.",
        table=table,
        runs=[f"run-{i}" for i in range(len(NAMES))],
        picture=Picture(name="p", spec=DRAWN),
    )


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    runs: dict[str, Behind] = {
        f"run-{i}": {
            "figures": [f"perplexity: perplexity of {name}, n = 63 tokens"],
            "record": f"perplexity/m/{i}.json",
            "command": f"quant-harness run +quant={name}",
        }
        for i, name in enumerate(NAMES)
    }
    sections = [section("What was found"), section("Ranking")]
    content = Content(title="Report: r", head="Records: x", sections=sections, runs=runs)
    path = tmp_path_factory.mktemp("page") / "r.html"
    path.write_text(render(content, vega()), encoding="utf-8")
    return path.as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


Open = Callable[..., Page]


@pytest.fixture
def opened(browser: Browser, address: str) -> Iterator[Open]:
    """Open the page; the test fails if the page says anything on the console or loads anything."""
    said: list[str] = []
    pages: list[Page] = []

    def open_page(
        width: int = 1400, scheme: str = "light", *, touch: bool = False, address: str = address
    ) -> Page:
        context = browser.new_context(
            viewport={"width": width, "height": 844},
            color_scheme=scheme,  # type: ignore[arg-type]
            has_touch=touch,
            reduced_motion="reduce",
        )
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: said.append(dialog.message))
        page.on("request", lambda request: said.append(request.url))
        page.goto(address)
        # Not `wait_for_function`, which the policy of the page forbids.
        for figure in page.locator("figure").all():
            figure.locator("svg").wait_for()
        assert said.pop(0) == address
        pages.append(page)
        return page

    yield open_page
    assert said == []
    for page in pages:
        page.context.close()


def column(page: Page, number: int) -> list[str]:
    return page.locator(
        f"table >> nth=1 >> tbody tr:not([hidden]) td:nth-child({number})"
    ).all_inner_texts()


def sort(page: Page, title: str) -> None:
    page.locator("table >> nth=1").get_by_role("button", name=title, exact=True).click()


def test_a_click_sorts_by_value_with_missing_cells_last(opened: Open) -> None:
    page = opened()
    sort(page, "perplexity")
    assert column(page, 2) == ["9.5", "10.25", "11.0", "1,100.0", "-"]
    sort(page, "perplexity")
    assert column(page, 2) == ["1,100.0", "11.0", "10.25", "9.5", "-"]
    sort(page, "p")
    assert column(page, 4) == ["5e-10", "1.2e-05", "0.03", "-", "-"]
    sort(page, "p")
    assert column(page, 4) == ["0.03", "1.2e-05", "5e-10", "-", "-"]
    sort(page, "its 95 % interval")
    assert column(page, 3)[:3] == ["-2 % .. +1 %", "+0.1 % .. +0.3 %", "+10 % .. +12 %"]
    sort(page, "recipe")
    assert column(page, 1)[2:] == ["int4_g64", "int4_g128", "int8_row"]
    title = page.locator("table >> nth=1 >> th >> nth=0")
    assert title.get_attribute("aria-sort") == "ascending"
    assert page.locator("table >> nth=0 >> th[aria-sort]").count() == 0


def test_the_keyboard_sorts_and_walks_through_rows(opened: Open) -> None:
    page = opened()
    page.locator("table >> nth=1").get_by_role("button", name="perplexity").focus()
    page.keyboard.press("Enter")
    assert column(page, 2)[0] == "9.5"
    page.locator("table >> nth=1 >> tbody tr >> nth=0").focus()
    page.keyboard.press("ArrowDown")
    assert "int8_row" in page.locator("#card").inner_text()
    page.keyboard.press("Enter")
    page.locator("#words").focus()
    assert page.locator("#card").is_visible(), "Enter keeps the card"
    page.keyboard.press("Escape")
    assert page.locator("#card").is_hidden()


def test_words_filter_the_rows_of_all_tables(opened: Open) -> None:
    page = opened()
    page.fill("#words", "INT4 worse")
    assert column(page, 1) == ["int4_g64"]
    assert page.locator("#search output").inner_text() == "2 of 10 rows"
    page.fill("#words", "nothing has this")
    assert page.locator("section.empty").count() == 2
    page.fill("#words", "")
    assert len(column(page, 1)) == len(NAMES)


def test_a_row_shows_the_run_behind_it(opened: Open) -> None:
    page = opened()
    card = page.locator("#card")
    page.locator("table >> nth=1 >> tbody tr >> nth=2").hover()
    for words in ("int4_g64, n = 63 tokens", "perplexity/m/2.json", "run +quant=int4_g64"):
        assert words in card.inner_text()
    page.locator("h1").hover()
    assert card.is_hidden()
    page.locator("table >> nth=1 >> tbody tr >> nth=3 >> td >> nth=1").click()
    page.locator("table >> nth=1 >> tbody tr >> nth=2").hover()
    assert "+quant=int4_g128" in card.inner_text(), "a click keeps the run"
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    card.get_by_role("button", name="Copy").click()
    card.get_by_role("button", name="Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == "quant-harness run +quant=int4_g128"
    card.get_by_role("button", name="Close").click()
    assert card.is_hidden()


def test_a_tap_on_a_phone_shows_the_run(opened: Open) -> None:
    page = opened(390, touch=True)
    page.locator("table >> nth=1 >> tbody tr >> nth=4 >> td >> nth=0").tap()
    assert f"quant-harness run +quant={NAMES[4]}" in page.locator("#card").inner_text()


@pytest.mark.parametrize("width", [390, 1400])
def test_the_page_itself_does_not_scroll_sideways(width: int, opened: Open) -> None:
    page = opened(width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    box = page.locator(".box:has(table) >> nth=1")
    box.evaluate("box => { box.scrollLeft = 400; }")
    first, last = (box.locator(f"tbody tr >> nth=1 >> td >> nth={i}") for i in (0, -1))
    left = (box.bounding_box() or {})["x"]
    assert (first.bounding_box() or {})["x"] == pytest.approx(left, abs=2), "the name stays in view"
    size = last.bounding_box() or {}
    assert size["width"] <= 700, "3,000 letters are broken into lines"
    assert size["height"] <= 200, "and scroll"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colors_are_those_of_the_system_until_the_button_is_pressed(
    scheme: str, opened: Open
) -> None:
    page = opened(scheme=scheme)

    def is_dark() -> list[bool]:
        """Say for the page, its text and the text of a picture whether dark is asked for."""
        tone = "e => e.match(/[0-9.]+/g).slice(0, 3).reduce((a, b) => a + Number(b), 0)"
        style = "e => getComputedStyle(e)"
        read = {"html": "backgroundColor", "h1": "color", "figure svg text": "fill"}
        sums = [
            page.locator(name).first.evaluate(f"e => ({tone})(({style})(e).{what})")
            for name, what in read.items()
        ]
        return [sums[0] < 380, sums[1] > 380, sums[2] > 380]

    assert is_dark() == [scheme == "dark"] * 3
    page.locator("#scheme").click()
    assert is_dark() == [scheme != "dark"] * 3
    page.emulate_media(media="print")
    assert is_dark() == [False] * 3, "paper is white"


def test_pictures_have_tooltips(opened: Open) -> None:
    page = opened()
    page.locator("figure svg .mark-symbol path").first.hover(force=True)
    page.locator("#vg-tooltip-element.visible").wait_for()
    assert "4" in page.locator("#vg-tooltip-element").inner_text()


def test_print_has_whole_tables_and_no_controls(opened: Open) -> None:
    page = opened(1100)
    page.emulate_media(media="print")
    for name in ("nav", "#search", "#scheme", "#card"):
        assert page.locator(name).is_hidden()
    box = page.locator(".box:has(table) >> nth=1")
    assert box.evaluate("box => box.scrollWidth <= document.documentElement.clientWidth")


def test_a_published_report_shows_the_error_of_every_layer(opened: Open, tmp_path: Path) -> None:
    composed = compose(STUDY, tmp_path / "d.md", tmp_path)
    path = tmp_path / "d.html"
    path.write_text(render(composed.content, vega()), encoding="utf-8")
    page = opened(address=path.as_uri())
    quantized = [quant for path in STUDY.rglob("*.json") if (quant := read(path).quant) is not None]
    num_layers = max(len(quant.layers) for quant in quantized)
    num_recipes = len({quant.name for quant in quantized} - {"none"})
    section = page.locator("section", has=page.get_by_role("heading", name="By layer"))
    assert num_layers > 0
    assert section.locator("figure svg .mark-rect path").count() == num_layers * num_recipes
