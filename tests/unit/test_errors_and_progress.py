"""Errors are for users; a bar is for terminals."""

import inspect
import mmap
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from harness import errors
from harness.display import progress as progress_module
from harness.display.progress import bar
from harness.errors import HarnessError, of_this_machine

CLASSES = [
    item
    for item in vars(errors).values()
    if inspect.isclass(item) and item.__module__ == errors.__name__
]


def test_every_error_is_a_harness_error_with_a_docstring() -> None:
    assert len(CLASSES) >= 8
    for error in CLASSES:
        assert issubclass(error, HarnessError)
        assert error.__doc__


def test_no_error_passes_for_a_bad_argument() -> None:
    # A ValueError of a component is rewritten with its key; one of these must not be.
    assert not any(issubclass(error, ValueError | KeyError | OSError) for error in CLASSES)


def raised(call: Callable[[], object]) -> BaseException:
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - of any kind
        call()
    return caught.value


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: torch.empty(10**15), r"the run must fit into memory, got: .*; take a smaller"),
        (lambda: bytearray(10**17), r"the run must fit into memory, got: MemoryError; take a "),
        (lambda: mmap.mmap(-1, 2**60), r"the run must fit into memory, got: .*memory; take a "),
        (
            lambda: Path("/not/there").read_bytes(),
            r"got /not/there: No such file or directory; correct ",
        ),
        (lambda: torch.empty(-1), None),
        (lambda: {}["x"], None),
        (lambda: os.read(99999, 1), None),  # names no file
    ],
)
def test_what_the_machine_refuses_is_a_line(call: Callable[[], object], said: str | None) -> None:
    text = of_this_machine(raised(call))
    if said is None:
        assert text is None
    else:
        assert text is not None
        assert re.search(said, text)
        assert "\n" not in text


def test_bar_prints_nothing_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with bar("perplexity", 3) as progress:
        for _ in range(3):
            progress.advance()
    assert capsys.readouterr() == ("", "")


def test_line_a_minute_where_there_is_no_terminal(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: clock[0])
    caplog.set_level("INFO", "harness")
    with bar("mmlu", 40) as progress:
        for _ in range(10):
            clock[0] += 30
            progress.advance(2, score="accuracy 30 %")
    # 20 of 40 took 5 minutes, so the rest takes 5 more.
    assert [record.message for record in caplog.records] == [
        f"mmlu: {4 * n} of 40 in {n} min, about {10 - n} min left, accuracy 30 %"
        for n in range(1, 6)
    ]


def test_process_that_shares_a_terminal_draws_no_bar(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(progress_module, "_only_lines", False)
    progress_module.in_lines()
    with bar("perplexity", 3) as progress:
        progress.advance(3)
    assert capsys.readouterr() == ("", "")


def test_bar_counts_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with bar("perplexity", 7) as progress:
        progress.advance(5)
        progress.advance()
    printed = capsys.readouterr()
    assert printed.out == "", "standard output is for results"
    assert "perplexity" in printed.err
    assert "6/7" in printed.err


def test_bar_shows_rates_and_the_score_so_far(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "160")
    with bar("mmlu", 40) as progress:
        progress.advance(10, tokens=1000, score="accuracy 30 %")
        time.sleep(0.05)
        progress.advance(10, tokens=3000)
    shown = capsys.readouterr().err
    rates = re.findall(r"([\d.]+)/s +([\d,]+) token/s", shown)
    items, tokens = float(rates[-1][0]), float(rates[-1][1].replace(",", ""))
    assert tokens / items == pytest.approx(4000 / 20, rel=0.05)
    assert "accuracy 30 %" in shown


def test_bar_lets_an_error_through(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyError), bar("perplexity", 3):
        raise KeyError("of the run")
