"""What a report may overwrite, and what happens where it cannot be written."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

import pytest
from matplotlib.figure import Figure
from repository import ROOT

from harness.errors import OutputError
from harness.output.picture import METADATA
from harness.report import __main__ as command
from harness.report import compose
from harness.report.__main__ import is_own, is_own_page, write
from harness.report.markdown import render
from harness.report.sections.section import Section

REPORTS = ROOT / "reports" / "published"
PICTURE = "study-quality-1.png"
STUDY = ("study.csv", "study.json", "study.md")


@pytest.fixture
def results(make_record: Callable[..., object], file_records: Callable[..., Path]) -> Path:
    return file_records(make_record("none"), make_record("int8_row", 0.49))


@pytest.fixture
def _with_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports have a picture."""

    def collect(_: object, __: object, ___: object, path: Path) -> list[object]:
        Figure(figsize=(1, 1)).savefig(path.with_name(PICTURE), metadata=METADATA)
        return []

    monkeypatch.setattr(compose, "collect", collect)


@pytest.mark.usefixtures("_with_picture")
def test_a_report_and_its_pictures_are_written_again(results: Path, tmp_path: Path) -> None:
    out = tmp_path / "reports"
    for _ in range(2):
        assert write(results, out, "study") == out / "study.md"
        assert sorted(path.name for path in out.iterdir()) == [PICTURE, *STUDY]
        assert is_own(out / "study.md")
        (out / "study.md").write_text((out / "study.md").read_text() + "changed by hand")


def test_the_link_to_a_picture_is_one_whatever_its_name() -> None:
    name = "ünï日本 (1)=x [a]#?:-quality-1.png"
    section = Section(name="n", title="Quality", text="", picture=name)
    [line] = [line for line in render("r", "", [section]).splitlines() if line.startswith("!")]
    # CommonMark: a destination without brackets ends at a space or an unbalanced parenthesis.
    found = re.fullmatch(r"!\[Quality\]\(([A-Za-z0-9%._-]+)\)", line)
    assert found is not None, line
    assert unquote(found[1]) == name


@pytest.mark.parametrize("path", sorted(REPORTS.glob("*-smollm2.md")), ids=lambda path: path.name)
def test_reports_on_file_are_known(path: Path) -> None:
    assert is_own(path)


def test_a_file_that_a_person_began_alike_is_not_a_report_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "a.md"
    for text in ("", "# Report: mine\n\nEvery value I found.\n", "\xff", "Written by python"):
        path.write_text(text)
        assert not is_own(path)


@pytest.mark.usefixtures("_with_picture")
@pytest.mark.parametrize("name", [*STUDY, PICTURE])
def test_files_of_others_are_overwritten_with_force_alone(
    name: str, results: Path, tmp_path: Path
) -> None:
    out = tmp_path / "reports"
    out.mkdir()
    (out / name).write_text("mine")
    with pytest.raises(OutputError) as refused:
        write(results, out, "study")
    assert str(refused.value) == (
        f"--out must lead to a new file, got {out / name}, which exists; name another "
        "(--out FOLDER), or add --force to overwrite it"
    )
    assert [path.name for path in out.iterdir()] == [name], "nothing is written if not all may be"
    assert (out / name).read_text() == "mine"
    write(results, out, "study", force=True)
    assert sorted(path.name for path in out.iterdir()) == [PICTURE, *STUDY]
    assert (out / name).read_bytes() != b"mine"


@pytest.mark.parametrize("name", ["../../x", "a/b", "", "..", "n" * 240])
def test_a_name_must_stay_in_the_folder(name: str, results: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OutputError, match=r"^--name must be a name "):
        write(results, tmp_path / "reports", name)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_of_results_without_a_name_asks_for_one(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"^--name must be a name without a folder, got ''"):
        write(Path("/"), tmp_path, None)


@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("", "--out must name a place to write, got ''"),
        ("s3://bucket/x", "got the address s3://bucket/x"),
        ("/proc/x", "got /proc/x, which belongs to the operating system"),
        ("/dev/null", "got /dev/null, which belongs to the operating system"),
        ("file", "--out must be a folder that can be written, got file, which is a file"),
        ("n" * 300, "File name too long"),
    ],
)
def test_a_place_that_cannot_be_is_told_in_one_line(
    out: str,
    said: str,
    results: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    monkeypatch.setattr(sys, "argv", ["report", str(results), "--out", out, "--force"])
    with pytest.raises(SystemExit, match="1"):
        command.main()
    printed = capsys.readouterr()
    assert printed.out == ""
    assert said in printed.err
    assert printed.err.count("\n") == 1


def test_a_page_is_written_when_it_is_asked_for_and_again(results: Path, tmp_path: Path) -> None:
    out = tmp_path / "reports"
    for _ in range(2):
        write(results, out, "study", html=True)
        assert sorted(path.name for path in out.iterdir()) == sorted([*STUDY, "study.html"])
        page = out / "study.html"
        assert is_own_page(page)
        page.write_text(f"{page.read_text(encoding='utf-8')}changed by hand", encoding="utf-8")


def test_a_page_of_others_is_overwritten_with_force_alone(results: Path, tmp_path: Path) -> None:
    page = tmp_path / "study.html"
    page.write_text("<!doctype html>\n<p>mine", encoding="utf-8")
    with pytest.raises(OutputError, match=r"study\.html, which exists"):
        write(results, tmp_path, "study", html=True)
    assert not (tmp_path / "study.md").exists(), "nothing is written if not all may be"
    write(results, tmp_path, "study")  # without a page
    write(results, tmp_path, "study", html=True, force=True)
    assert is_own_page(page)
