"""The table at the end of a sweep, without a child process."""

import pytest

from harness.summary import Ending, JobResult, print_summary


def job(number: int, ending: Ending = Ending.OK, text: str = "fine") -> JobResult:
    return JobResult(overrides=("model=tiny", f"+quant=recipe{number}"), ending=ending, text=text)


def test_summary_has_a_row_a_job_and_names_the_failed_ones(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    print_summary(
        [
            job(0),
            job(1, Ending.FAILED, "ConfigError: no [/red]"),
            job(2),
            job(3, Ending.UNSUPPORTED),
        ]
    )
    printed = capsys.readouterr()
    assert printed.out == "", "standard output is for results"
    assert "4 jobs, 1 failed, 1 not supported here" in printed.err
    rows = [line for line in printed.err.splitlines() if "recipe" in line]
    assert ["FAILED" in row for row in rows] == [False, True, False, False]
    assert ["unsupported" in row for row in rows] == [False, False, False, True]
    assert "ConfigError: no [/red]" in rows[1], "markup in a message is text"
    assert "model=tiny" not in printed.err, "what all jobs share names none of them"


def test_summary_says_when_none_failed(capsys: pytest.CaptureFixture[str]) -> None:
    print_summary([job(0), job(1)])
    printed = capsys.readouterr().err
    assert "2 jobs, none failed" in printed
    assert "FAILED" not in printed


def test_summary_cuts_no_long_message(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    words = [f"w{number:03}" for number in range(100)]
    print_summary([job(0, Ending.FAILED, " ".join(words)), job(1)])
    printed = capsys.readouterr().err
    assert all(word in printed for word in words)
