"""The command: what it prints, and its exit codes."""

import sys
from pathlib import Path

import pytest

from harness.audit.__main__ import main

FOLDER = Path(__file__).parent


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["quant-harness audit", *words])
    try:
        main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def test_findings_have_file_and_line_and_the_exit_code_is_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(FOLDER / "faulty.md")
    assert run(monkeypatch, path) == 1
    *lines, last = capsys.readouterr().out.splitlines()
    assert all(line.startswith(f"{path}:") for line in lines)
    numbers = [int(line.removeprefix(f"{path}:").partition(":")[0]) for line in lines]
    assert numbers == sorted(numbers)
    assert last == f"{len(lines)} findings in 8 tables"


def test_without_findings_the_exit_code_is_0(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, str(FOLDER / "clean.md"), "--n", "1,000") == 0
    assert capsys.readouterr().out == "no findings in 6 tables\n"


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00 not UTF-8"])
def test_an_unreadable_file_is_exit_code_2(
    content: bytes | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "table.md"
    if content is not None:
        path.write_bytes(content)
    assert run(monkeypatch, str(path)) == 2
    assert f"the file must be readable Markdown, got {path}" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "# No table\n\nINT8: 50.3 %, better than BF16.\n"])
def test_a_file_without_a_table_is_exit_code_2(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # An exit code of 0 would say that a table was read, and is right.
    path = tmp_path / "text.md"
    path.write_text(text, encoding="utf-8")
    assert run(monkeypatch, str(path)) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "the file must have a table" in said.err
    assert str(path) in said.err


@pytest.mark.parametrize("number", ["0", "-5", "many", "1.5"])
def test_the_number_of_samples_is_a_whole_number(
    number: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, str(FOLDER / "clean.md"), f"--n={number}") == 2
    assert "whole number of samples" in capsys.readouterr().err


def test_help_says_the_exit_codes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--help") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert (
        "0 without findings, 1 with findings, and 2 if the file has no table or cannot be read"
        in said
    )
