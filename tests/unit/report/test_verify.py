"""A report can be verified: written anew from its records, and compared line by line."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from repository import ROOT
from studies import MakeRecord

from harness.errors import ConfigError, ResultError
from harness.report import __main__ as command
from harness.report import compose as compose_module
from harness.report.__main__ import write
from harness.report.sections.section import Picture, Section
from harness.report.verify import differences

PUBLISHED = sorted((ROOT / "reports/published").glob("*-smollm2.md"))


def test_every_published_report_says_what_its_records_say() -> None:
    assert PUBLISHED
    assert {path.name: differences(path) for path in PUBLISHED} == {p.name: [] for p in PUBLISHED}


@pytest.fixture
def report(make_record: MakeRecord, file_records: Callable[..., Path], tmp_path: Path) -> Path:
    """A small report."""
    root = file_records(make_record(), make_record("int8_row", 0.48))
    return write(root, tmp_path / "my reports", "small")


def test_one_digit_that_is_changed_is_found(report: Path) -> None:
    assert differences(report) == []
    text = report.read_text(encoding="utf-8")
    assert text.count("48.00 %") == 1
    report.write_text(text.replace("48.00 %", "48.01 %"), encoding="utf-8")
    changed, right = differences(report)
    assert (changed[0], right[0]) == ("-", "+")
    assert "48.01 %" in changed
    assert "48.00 %" in right


@pytest.mark.parametrize("suffix", [".md", ".json", ".csv"])
@pytest.mark.parametrize(
    "more", ["-- int8_row wins", "++ int8_row wins", "@@ -1 @@", "---", "\n", " "]
)
def test_any_line_that_is_added_at_the_end_is_found(report: Path, suffix: str, more: str) -> None:
    path = report.with_suffix(suffix)
    path.write_text(f"{path.read_text(encoding='utf-8')}{more}\n", encoding="utf-8")
    assert f"-{more.rstrip(chr(10))}" in differences(report)


@pytest.mark.parametrize(
    "name", ["Margin: kl=9", "Records: /etc", "a\r\n=2", "a\rb", "a\u2028b", "\0"]
)
def test_a_recipe_of_any_name_can_be_verified(
    make_record: MakeRecord, file_records: Callable[..., Path], tmp_path: Path, name: str
) -> None:
    root = file_records(make_record(), make_record(name, 0.48))
    path = command.write(root, tmp_path / "out", "odd")
    assert differences(path) == []


@pytest.mark.parametrize("suffix", [".json", ".csv"])
def test_claims_that_are_gone_are_a_difference(report: Path, suffix: str) -> None:
    report.with_suffix(suffix).unlink()
    assert differences(report) == [
        f"+small{suffix}, which is not there; write the report anew",
    ]


def test_line_ends_of_windows_are_no_difference(report: Path) -> None:
    for path in (report, report.with_suffix(".csv"), report.with_suffix(".json")):
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert differences(report) == []


def test_claims_that_are_no_text_are_refused(report: Path) -> None:
    report.with_suffix(".csv").write_bytes(b"\xff\xfe")
    with pytest.raises(ResultError, match=r"small\.csv must be the claims of a report"):
        differences(report)


def test_command_ends_with_1_if_a_report_differs_or_names_no_records(
    report: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def verify(*paths: Path) -> tuple[str, str, str]:
        monkeypatch.setattr(sys, "argv", ["harness.report", "verify", *map(str, paths)])
        with pytest.raises(SystemExit) as ended:
            command.main()
        return (str(ended.value.code), *capsys.readouterr())

    assert verify(report) == ("0", f"{report}: says what its records say\n", "")
    other = tmp_path / "other.md"
    other.write_text("# Mine\n", encoding="utf-8")
    code, out, err = verify(report, other)
    assert (code, out) == ("1", f"{report}: says what its records say\n")
    assert "must have a line that begins with 'Records: '" in err
    gone = tmp_path / "gone.md"
    assert verify(gone) == ("1", "", f"{gone} must be a report, got: No such file or directory\n")
    report.write_text(report.read_text(encoding="utf-8") + "\nBest: int8_row\n", encoding="utf-8")
    code, out, _ = verify(report)
    assert code == "1"
    assert "  -Best: int8_row\n" in out


def test_a_report_with_a_margin_is_verified_with_it(
    file_answers: Callable[..., Path], tmp_path: Path
) -> None:
    right = np.arange(1000) % 4 == 0
    for recipe, correct in (("none", right), ("int8_row", right.copy())):
        file_answers(correct, recipe=recipe)
    path = write(tmp_path / "results", tmp_path, "r", margin="accuracy=1pp,\n perplexity=0.5%")
    text = path.read_text(encoding="utf-8")
    assert "\nMargin: accuracy=1pp,perplexity=0.5%\n" in text
    # Equivalence stands on a test of its own, not on the p of "no difference", which is 1.
    assert "equivalent (p of 1 pp or more = " in text
    assert differences(path) == []
    path.write_text(text.replace("accuracy=1pp", "accuracy=0.2pp"), encoding="utf-8")
    assert differences(path)


def test_a_margin_of_no_measure_of_the_runs_is_refused(
    file_answers: Callable[..., Path], tmp_path: Path
) -> None:
    file_answers(np.arange(1000) % 4 == 0)
    with pytest.raises(ConfigError, match=r"of these runs \(accuracy\), got kl=0\.01"):
        write(tmp_path / "results", tmp_path, "r", margin="kl=0.01")


@pytest.mark.parametrize("suffix", [".json", ".csv"])
def test_a_changed_digit_in_the_files_of_claims_is_found(suffix: str, report: Path) -> None:
    file = report.with_suffix(suffix)
    text = file.read_text(encoding="utf-8")
    assert "0.48" in text
    file.write_text(text.replace("0.48", "0.49", 1), encoding="utf-8")
    assert differences(report)


@pytest.fixture
def with_page(make_record: MakeRecord, file_records: Callable[..., Path], tmp_path: Path) -> Path:
    """A small report with its page."""
    root = file_records(make_record(), make_record("int8_row", 0.48))
    return write(root, tmp_path / "out", "small", html=True)


def test_a_page_is_verified_with_its_report(with_page: Path) -> None:
    assert differences(with_page) == []
    page = with_page.with_suffix(".html")
    text = page.read_text(encoding="utf-8")
    page.write_bytes(text.replace("\n", "\r\n").encode())
    assert differences(with_page) == []
    page.write_text(text.replace('<td dir="auto">48.00 %', '<td dir="auto">48.01 %'))
    assert text != page.read_text(encoding="utf-8")
    changed, right = differences(with_page)
    assert "48.01 %" in changed
    assert "48.00 %" in right


def test_a_page_with_another_version_of_the_library_is_verified(
    with_page: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A section has a picture, drawn by scripts that nobody here can make again."""
    contents = compose_module.collect

    def collect(*given: object) -> list[Section]:
        picture = Picture(name="p", spec={"mark": "point"})
        return [*contents(*given), Section(name="n", title="Drawn", text="", picture=picture)]  # type: ignore[arg-type]

    monkeypatch.setattr(compose_module, "collect", collect)
    monkeypatch.setattr(command, "vega", lambda: "window.vegaEmbed = 1;")
    root = with_page.parent.parent / "results"
    path = write(root, with_page.parent, "small", html=True)
    assert "window.vegaEmbed = 1;" in path.with_suffix(".html").read_text(encoding="utf-8")
    assert differences(path) == []
    monkeypatch.setattr(command, "vega", lambda: None)
    path = write(root, with_page.parent, "small", html=True)
    assert "window.vegaEmbed" not in path.with_suffix(".html").read_text(encoding="utf-8")
    assert differences(path) == []
