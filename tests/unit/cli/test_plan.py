"""`quant-harness plan`: what is printed, what is refused and how, and its help."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.cli import plan as command
from harness.runner import probe

Command = Callable[..., None]
MMLU = ("task=mmlu", "task.shots=0", "task.limit=20")


@pytest.fixture
def plan(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """Run a command line in this process, in a folder of its own."""
    monkeypatch.setattr(probe, "ENOUGH_S", 0.05)

    def run_line(*words: str) -> None:
        monkeypatch.chdir(tmp_path)
        common = () if "--help" in words else ("model=tiny", "data=embedded", "device=cpu")
        monkeypatch.setattr(sys, "argv", ["quant-harness plan", *common, *words])
        monkeypatch.setattr(sys, "orig_argv", ["python", *sys.argv])
        command.main()

    return run_line


def test_a_plan_says_what_a_difference_takes_and_files_nothing(
    plan: Command, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    plan(*MMLU, "delta=0.5pp", "flip_rate=10%", "quant=int8_row")
    shown = capsys.readouterr()
    first, blank, needed, *lines = shown.out.splitlines()
    assert first == "mmlu of tiny: int8_row against the unquantized model"
    assert blank == ""
    assert needed.startswith("To see a difference of 0.5 pp with a chance of 80 %: about ")
    assert needed.endswith(", more than the 281 there are.")
    assert lines[0].startswith("This run, 20 questions of 281, can show a difference of ")
    assert any(line.startswith("This assumes that 10 % of the answers flip") for line in lines)
    assert any(line.startswith("Time here: about ") for line in lines)
    assert "Of 12, corrected by Holm" in lines[-1]
    assert "measuring for about 10 s" in shown.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("delta=0.5",), "delta must be a difference above 0 with its unit, such as delta=0.5pp"),
        (("delta=0pp",), "delta must be a difference above 0"),
        (("delta=0.5%",), "delta must be a difference above 0"),
        (("delta=1pp", "flip_rate=200%"), "flip_rate must be a share of the answers above 0%"),
        (("delta=1pp", "flip_rate=0.05"), "flip_rate must be a share of the answers above 0%"),
        (("task=mlu",), "mlu"),
        (("task=throughput",), "task must be one whose samples are compared one by one"),
        (("task=matmul",), "task must be one whose samples are compared one by one"),
        (("detla=1pp",), "did you mean delta"),
        (("-m", "delta=1pp,2pp"), "a plan must be of one run"),
        (("delta=1pp,2pp",), "delta"),
        (("task.limit=1000000",), "task.limit must be at most the"),
    ],
)
def test_a_mistake_is_one_sentence_with_exit_code_1(
    words: tuple[str, ...], said: str, plan: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = () if any(word.startswith("task=") for word in words) else MMLU[:2]
    with pytest.raises(SystemExit) as ended:
        plan(*chosen, *words)
    shown = capsys.readouterr()
    assert ended.value.code == 1
    assert shown.out == ""
    assert said in shown.err
    # Hydra's own errors are followed by the legal names.
    names = ("Legal keys", "Options of")
    assert len([line for line in shown.err.splitlines() if not line.startswith(names)]) == 1
    assert "Traceback" not in shown.err


def test_help_says_what_may_be_asked(plan: Command, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        plan("--help")
    page = capsys.readouterr().out
    for words in ("delta=0.5pp", "flip_rate=5%", "Nothing is filed", "smollm2_135m"):
        assert words in page
    assert max(map(len, page.partition("Choose one option")[0].splitlines())) <= 100


def test_help_on_a_task_shows_its_keys(plan: Command, capsys: pytest.CaptureFixture[str]) -> None:
    plan("--help", "task=mmlu")
    assert "task.limit=null" in capsys.readouterr().out
