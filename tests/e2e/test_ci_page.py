"""The workflow of docs/ci.md: it is valid, short, and its commands end with the codes of the table."""

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.core.global_hydra import GlobalHydra
from repository import ROOT

from harness.cli import run as cli
from harness.compare import __main__ as compare
from harness.compare.gate import Decision

PAGE = (ROOT / "docs" / "ci.md").read_text(encoding="utf-8")
BLOCK = re.search(r"```yaml\n(.*?)```", PAGE, re.S)
FEW = ("model=tiny", "data=embedded", "task.limit=20", "task.window=64", "task.limit_windows=150")


def steps() -> list[dict[str, Any]]:
    assert BLOCK
    (job,) = yaml.safe_load(BLOCK[1])["jobs"].values()
    return list(job["steps"])


def commands(word: str) -> list[list[str]]:
    """Return the words after `quant-harness <word>` of each step that runs it."""
    typed = [shlex.split(step.get("run", "")) for step in steps()]
    return [words[2:] for words in typed if words[:2] == ["quant-harness", word]]


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A function that measures in a folder of its own, on the tiny model and few samples."""
    monkeypatch.chdir(tmp_path)

    def measure(*words: str) -> None:
        # Each task takes its own keys of `FEW`.
        tasks = next(word for word in words if word.startswith("task=")).removeprefix("task=")
        others = [word for word in words if not word.startswith("task=") and word != "-m"]
        for task in tasks.split(","):
            is_text = task == "perplexity"
            few = [w for w in FEW if ("window" in w) == is_text or not w.startswith("task.")]
            monkeypatch.setattr(sys, "argv", ["harness", f"task={task}", *others, *few])
            cli.main()
            GlobalHydra.instance().clear()

    return measure


@pytest.fixture
def code_of(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """A function that compares and returns the exit code."""

    def run(*words: str) -> int:
        monkeypatch.setattr(sys, "argv", ["harness.compare", *words])
        with pytest.raises(SystemExit) as ended:
            compare.main()
        assert isinstance(ended.value.code, int)
        return int(ended.value.code)

    return run


def test_the_workflow_is_short_and_a_step_does_one_thing() -> None:
    assert BLOCK
    assert len(BLOCK[1].splitlines()) <= 24
    assert all(("run" in step) != ("uses" in step) for step in steps())
    assert len(commands("run")) == 2
    assert len(commands("compare")) == 1


def test_a_comparison_that_fails_does_not_cost_the_baseline() -> None:
    words = [f"{step.get('uses', '')} {step.get('run', '')}" for step in steps()]
    done = [
        next(index for index, each in enumerate(words) if word in each)
        for word in ("cache/restore@", "results_dir=results/base", "cache/save@", "harness compare")
    ]
    assert done == sorted(done)
    assert not any("actions/cache@" in each for each in words), "it saves only if the job succeeds"
    restore, save = (step for step in steps() if "actions/cache/" in step.get("uses", ""))
    assert restore["with"]["path"] == save["with"]["path"] == "results/base"
    assert f"steps.{restore['id']}.outputs.cache-primary-key" in save["with"]["key"]


def test_the_default_branch_fills_the_cache_for_pull_requests() -> None:
    assert BLOCK
    # YAML 1.1 reads the key `on` as true.
    assert {*yaml.safe_load(BLOCK[1])[True]} == {"pull_request", "push"}


def test_its_commands_measure_both_folders_and_compare_them(
    measured: Callable[..., None],
    code_of: Callable[..., int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    for words in commands("run"):
        measured(*words)
    (words,) = commands("compare")
    # Twenty questions cannot show that 1 pp is not lost.
    assert code_of(*words) == Decision.CANNOT_TELL
    summary = (tmp_path / "summary.md").read_text(encoding="utf-8")
    assert summary.startswith("### Comparison: cannot tell")
    assert "int8_row" in summary.replace("\\", "")
    wide = ("results/base", "results/candidate", "--margin")
    assert code_of(*wide, "perplexity=50%") == Decision.NOT_WORSE
    assert code_of("results/candidate", "nowhere") == Decision.INVALID
    assert code_of(*wide, "accuracy=1%") == Decision.INVALID
    measured("+quant=hif2", "task=perplexity", "results_dir=results/bad")
    bad = ("results/base", "results/bad", "--margin", "perplexity=0.001%")
    assert code_of(*bad) == Decision.WORSE
    capsys.readouterr()


def test_a_second_run_of_the_baseline_is_skipped(measured: Callable[..., None]) -> None:
    base, _ = commands("run")
    measured(*base)
    files = sorted(Path("results/base").glob("*/*/*.json"))
    measured(*base)
    assert sorted(Path("results/base").glob("*/*/*.json")) == files
    assert len(files) == 2


def test_the_page_has_every_exit_code() -> None:
    rows = dict(re.findall(r"^\| (\d) \| ([\w ]+) \|", PAGE, re.MULTILINE))
    assert rows == {
        "0": "not worse",
        "1": "worse",
        "2": "cannot tell",
        "3": "invalid comparison",
    }
    assert {int(code) for code in rows} == {*Decision}


@pytest.mark.parametrize("code", [*Decision])
def test_the_line_for_proven_losses_lets_only_cannot_tell_pass(code: Decision) -> None:
    line = re.search(r"^ {4}(quant-harness compare .* \|\| test .*)$", PAGE, re.MULTILINE)
    assert line
    after = line[1].partition("||")[2]
    done = subprocess.run(["bash", "-ec", f"(exit {code}) ||{after}"], check=False)
    assert (done.returncode == 0) is (code in (Decision.NOT_WORSE, Decision.CANNOT_TELL))
