"""The table and the warnings at the end of a command, without a child process."""

import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from published import anchor, run

from harness import __version__
from harness.cli import run as cli
from harness.display.summary import Ending, JobResult, print_summary, print_warnings
from harness.errors import ModelError
from harness.export import command
from harness.report import __main__ as report
from harness.results.store import Stored
from harness.runner.run import Outcome
from harness.sweep.job import announce
from harness.tensor import __main__ as tensor


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


# The warnings


def test_warning_of_one_run_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    print_warnings([replace(job(0), warnings=("all weights are zero [/red]", "second"))])
    printed = capsys.readouterr()
    assert printed.out == "", "standard output is for results"
    assert printed.err == "warning: all weights are zero [/red]\nwarning: second\n"


def test_warning_of_several_jobs_is_printed_once_with_their_number(
    capsys: pytest.CaptureFixture[str],
) -> None:
    gave = [("a", "b", "a"), ("b",), (), ("b",)]
    print_warnings([replace(job(i), warnings=texts) for i, texts in enumerate(gave)])
    assert capsys.readouterr().err == "warning (1 of 4 jobs): a\nwarning (3 of 4 jobs): b\n"


def test_runs_without_warnings_print_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    print_warnings([job(0), job(1)])
    assert capsys.readouterr().err == ""


# The commands, in this process


@pytest.mark.parametrize("main", [cli.main, command.main])
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["hello"], "a word of the command line must be KEY=VALUE, got 'hello'"),
        (["model=tinyy"], "did you mean model=tiny?"),
        (["model=tiny", "model.sede=3"], "did you mean model.seed?"),
        (["hydra.mode=foo"], "hydra.mode must be RUN or MULTIRUN or null, got hydra.mode=foo"),
        (["hydra.run.dir=${foo}"], "Interpolation key 'foo' not found"),
        (["--config-dir", "/not/there"], "--config-dir must be a folder, got /not/there"),
        (["--config-path", "/"], "--config-path must be a folder with "),
        (["hydra.run.dir=/proc/x"], "hydra.run.dir must be a folder that can be written, got: "),
        (["hydra.job_logging.version=7"], "Unsupported version: 7"),
        (["hydra.verbose=[1]"], "A logger name must be a string"),
        (["--config-dir", "DEEP", "quant=deep"], "plain YAML, got one that is nested too deeply"),
    ],
)
def test_wrong_command_line_ends_with_a_message_and_no_traceback(
    main: Callable[[], None],
    words: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    (tmp_path / "quant").mkdir()
    (tmp_path / "quant/deep.yaml").write_text(f"a: {'[' * 5000}{']' * 5000}")
    words = [word.replace("DEEP", str(tmp_path)) for word in words]
    monkeypatch.setattr("sys.argv", ["harness", *words])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert said in printed.err
    assert "Traceback" not in printed.err
    assert "Error executing job" not in printed.err
    assert len(printed.err.splitlines()) <= 2


@pytest.mark.parametrize("main", [cli.main, command.main, report.main, tensor.main])
def test_version_is_that_of_this_program(
    main: Callable[[], None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["harness", "--version"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"quant-harness {__version__}\n"


def test_error_of_an_export_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for words, said in (
        ([], "out must be given, got nothing; add out=DIR"),
        (
            [f"out={tmp_path}/x", "quant=int8_row", "shard_gb=1e400"],
            "shard_gb must be above 0, got inf",
        ),
        (["out=${x}", "quant=int8_row"], "Interpolation key 'x' not found"),
    ):
        monkeypatch.setattr("sys.argv", ["harness.export", "model=tiny", "data=embedded", *words])
        with pytest.raises(SystemExit) as caught:
            command.main()
        assert caught.value.code == 1
        [line] = capsys.readouterr().err.splitlines()
        assert said in line


@pytest.mark.parametrize(
    ("reason", "lines"),
    [
        (MemoryError(), 1),
        (PermissionError(13, "Permission denied", "/models/mine"), 1),
        (ZeroDivisionError("a bug"), None),
    ],
)
def test_error_of_an_export_that_explains_nothing_keeps_its_traceback(
    reason: Exception,
    lines: int | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    def fail(*_: object) -> None:
        raise reason

    monkeypatch.setattr(command, "_export", fail)
    monkeypatch.setattr("sys.argv", ["harness.export", f"out={tmp_path}/x", "quant=int8_row"])
    with pytest.raises(SystemExit) as caught:
        command.main()
    assert caught.value.code == 1
    printed = capsys.readouterr().err.splitlines()
    if lines:
        assert len(printed) == lines
    else:
        assert printed[0].startswith("Traceback")
        assert printed[-1] == "ZeroDivisionError: a bug"


def test_error_of_an_export_after_a_signal_is_the_signal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def break_off(*_: object) -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt as reason:
            raise ModelError("the folder does not read back") from reason

    monkeypatch.setattr(command, "_export", break_off)
    monkeypatch.setattr("sys.argv", ["harness.export", f"out={tmp_path}/x", "quant=int8_row"])
    with pytest.raises(SystemExit) as caught:
        command.main()
    assert caught.value.code == 143
    assert capsys.readouterr().err == "terminated (SIGTERM); nothing was left behind\n"


def test_job_that_the_machine_refuses_a_file_has_no_traceback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_: object) -> None:
        raise PermissionError(13, "Permission denied", "/models/mine")

    monkeypatch.setattr(cli, "_run", refuse)
    monkeypatch.setattr(cli, "typed_overrides", tuple)
    row = cli.run_job(OmegaConf.create({}))
    assert (row.ending, row.trace) == (Ending.FAILED, "")
    assert "got /models/mine: Permission denied; correct its path or its permissions" in row.text


def test_a_result_is_followed_by_how_it_compares_with_published_figures(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    outcomes = [
        Outcome(
            label="none perplexity",
            stored=Stored(path=tmp_path / "a.json", record=made),
            skipped=False,
        )
        for made in (run(6.25), run(6.25, model={"name": "org/other"}))
    ]
    monkeypatch.setattr(cli, "_run", lambda _: outcomes.pop(0))
    monkeypatch.setattr(cli, "typed_overrides", tuple)
    monkeypatch.setattr("harness.anchors.comparison.anchors", lambda: (anchor(),))
    result, said = cli.run_job(OmegaConf.create({})).line.splitlines()
    assert result.endswith("a.json")
    assert said.startswith("Reproduces the published perplexity 6.24 (a paper)")
    assert len(cli.run_job(OmegaConf.create({})).line.splitlines()) == 1, "nothing is published"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_results_that_cannot_be_printed_are_no_failed_jobs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run_two_jobs() -> None:
        for number in range(2):
            result = replace(job(number), line="perplexity 20")
            announce(result)
            cli.results.append(result)

    monkeypatch.setattr(cli, "single_job", run_two_jobs)
    monkeypatch.setattr("sys.argv", ["harness", "model=tiny"])
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr("sys.stdout", full)
        with pytest.raises(SystemExit) as caught:
            cli.main()
    assert caught.value.code == 1
    printed = capsys.readouterr().err
    assert "2 jobs, none failed" in printed
    assert printed.splitlines()[-1] == (
        "standard output must be writable, got: No space left on device; free some space, or send "
        "it elsewhere; what was measured is on file"
    )
