"""Every command of README and docs runs: with the tiny model and a short text, in this process."""

import contextlib
import json
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from repository import ROOT
from safetensors.torch import save_file

from harness.claims.margins import read_margins
from harness.cli import plan
from harness.cli import run as cli
from harness.compare import __main__ as compare
from harness.data import embedded
from harness.export import command as export
from harness.report import __main__ as report
from harness.runner import probe
from harness.tensor import __main__ as tensor

DOCUMENTS = [
    "README.md",
    "README.zh.md",
    "CONTRIBUTING.md",
    *sorted(str(page.relative_to(ROOT)) for page in (ROOT / "docs").rglob("*.md")),
    "results/published/README.md",
]
COMMAND = re.compile(
    r"^ {0,4}((?:python -m harness(?:\.tensor|\.export|\.report)?|"
    r"quant-harness (?:run|plan|compare|export|tensor|report))(?: [^\n#]*|$))",
    re.MULTILINE,
)
SCRIPT = {
    "quant-harness run": "python -m harness",
    "quant-harness export": "python -m harness.export",
    "quant-harness tensor": "python -m harness.tensor",
    "quant-harness report": "python -m harness.report",
}
"""Command of the console script -> the same, as a module."""
REPORT = "python -m harness.report"
PLAN = "quant-harness plan"
COMPARE = "quant-harness compare"
TENSOR = "python -m harness.tensor"
EXPORT = "python -m harness.export"
ELSEWHERE = (
    "my_conf",
    "hydra/launcher",
    "device=cuda",
    "$",
    "engine=vllm",
    "task.tasks=[mmlu",
    "\\",
    "model.path=DIR",
    "model.path=FOLDER",
    "track=",
    "push=",
)
"""Parts of commands that need what is not here: a GPU, a shell, an engine, the hub, a checkpoint, files of the reader, a tracker (tests/unit/sinks)."""


def commands() -> list[str]:
    texts = [(ROOT / name).read_text(encoding="utf-8") for name in DOCUMENTS]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    demo = re.search(r"^DEMO := (.*)$", makefile, re.MULTILINE)
    assert demo
    lines = re.findall(r"^\t\$\(RUN\) (-m harness .*\$\(DEMO\).*)$", makefile, re.MULTILINE)
    typed = [command.strip() for text in texts for command in COMMAND.findall(text)]
    lines_of = [_as_module(line) for line in typed]
    found = list(
        dict.fromkeys(line for line in lines_of if not any(part in line for part in ELSEWHERE))
    )
    return found + [f"python {line.replace('$(DEMO)', demo[1])}" for line in lines]


def _as_module(line: str) -> str:
    start = " ".join(line.split(" ")[:2])
    return SCRIPT[start] + line.removeprefix(start) if start in SCRIPT else line


STUDIES = ("+experiment=granularity", "+experiment=smoothquant")


@pytest.fixture
def short_data(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two subjects instead of 57, so that whole tasks take a second."""
    rows = embedded._rows()[:10]
    monkeypatch.setattr(embedded, "_rows", lambda: rows)
    embedded._text.cache_clear()
    embedded._questions.cache_clear()
    yield
    embedded._text.cache_clear()
    embedded._questions.cache_clear()
    GlobalHydra.instance().clear()


@pytest.fixture
def own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts and questions of a reader, in the folder where the command is typed."""
    line = "A text of one's own, which goes on for a while. "
    (tmp_path / "notes.txt").write_text(line * 60, encoding="utf-8")
    (tmp_path / "other.txt").write_text(line.upper() * 60, encoding="utf-8")
    (tmp_path / "pages.jsonl").write_text(json.dumps({"body": line}), encoding="utf-8")
    question = {"question": "Which?", "choices": ["a", "b", "c", "d"], "answer": "B"}
    (tmp_path / "quiz.jsonl").write_text(json.dumps(question), encoding="utf-8")
    monkeypatch.chdir(tmp_path)


def test_the_documents_have_the_commands_they_promise() -> None:
    found = commands()
    assert "python -m harness +quant=int8_row task=mmlu" in found
    assert len(found) >= 9


def runs() -> list[str]:
    """Return one command of those that are the same run on the tiny model."""
    found = {tuple(shortened(c)): c for c in commands() if c.startswith("python -m harness ")}
    return list(found.values())


def shortened(command: str) -> list[str]:
    """Return the words of a command without those that the tiny model and few data replace."""
    dropped = ("model", "results_dir=", "task.limit")
    words = [w for w in shlex.split(command)[3:] if not w.startswith(dropped)]
    # There are not 1,000 questions here; studies draw as many.
    words = [w.replace("_1k", "") for w in words]
    if any(w.startswith(STUDIES) for w in words) and "task=perplexity" not in words:
        words.append("task=perplexity")
    return words


@pytest.mark.usefixtures("short_data", "own_files")
@pytest.mark.parametrize("command", runs())
def test_command_runs(
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = shortened(command)
    if "--help" in words:
        monkeypatch.setattr(sys, "argv", ["harness", *shlex.split(command)[3:]])
        with contextlib.suppress(SystemExit):
            cli.main()
        assert "task=" in capsys.readouterr().out
        return
    if "task=lm_eval" in words:  # there is no hub here
        words = [w.replace("hellaswag,arc_easy", "choices,pages") for w in words]
        words.append(f"task.include_path={ROOT / 'tests/contract/lm_eval_tasks'}")
    words += ["model=tiny", f"results_dir={tmp_path}"]
    if not any(word.startswith("data=") for word in words):
        words.append("data=embedded")
    if any("throughput" in w for w in words):
        kept = [w for w in words if not w.startswith(("task.prompt_tokens", "task.batch_size"))]
        words = [*kept, "task.prompt_tokens=8", "task.new_tokens=2", "task.batch_size=1"]
    if "task=parity" in words:
        words += ["task.window=16"]
    if "+experiment=formats" in words:  # and 40 windows
        words.append("task.limit_windows=1")
    monkeypatch.setattr(sys, "argv", ["harness", *words])
    cli.main()
    wanted = {
        "+experiment=granularity": 13,
        "+experiment=granularity_real": 13,
        "+experiment=formats": 20,
    }
    least = max(wanted.get(word, 1) for word in words)
    assert len(list(tmp_path.glob("*/*/*.json"))) >= least
    assert report.write(tmp_path, tmp_path / "reports", "all").is_file()


@pytest.mark.usefixtures("short_data")
@pytest.mark.parametrize("command", [c for c in commands() if c.startswith(PLAN)])
def test_plan_command_runs(
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(probe, "ENOUGH_S", 0.05)
    kept = [w for w in shlex.split(command)[2:] if not w.startswith("task.limit=")]
    words = [*kept, "model=tiny", "data=embedded", f"results_dir={tmp_path}"]
    monkeypatch.setattr(sys, "argv", [PLAN, *words])
    plan.main()
    assert "Time here: about " in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("short_data")
@pytest.mark.parametrize("command", [c for c in commands() if c.startswith(EXPORT)])
def test_export_command_runs(
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    kept = [w for w in shlex.split(command)[3:] if not w.startswith(("model=", "out="))]
    # Groups must divide rows of 48 and 80.
    grouped = ["quant.group_size=16"] if any("_g64" in w or "_g128" in w for w in kept) else []
    words = [*kept, *grouped, "model=tiny", "data=embedded", f"out={tmp_path / 'made'}"]
    monkeypatch.setattr(sys, "argv", ["harness.export", *words])
    export.main()
    assert "MB in 1 file" in capsys.readouterr().out
    assert (tmp_path / "made" / "config.json").is_file()


@pytest.mark.parametrize("command", [c for c in commands() if c.startswith(TENSOR)])
def test_tensor_command_runs(
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    weights = {"a.q_proj.weight": torch.randn(8, 64), "b": torch.randn(64)}
    save_file(weights, tmp_path / "model.safetensors")
    monkeypatch.setattr(sys, "argv", ["harness.tensor", *shlex.split(command)[3:]])
    tensor.main()
    assert capsys.readouterr().out


@pytest.mark.parametrize("command", [c for c in commands() if c.startswith(REPORT)])
def test_the_report_takes_the_arguments_of_a_command(command: str) -> None:
    assert report.parser().parse_args(shlex.split(command)[3:]).results


@pytest.mark.parametrize("command", [c for c in commands() if c.startswith(COMPARE)])
def test_compare_takes_the_arguments_of_a_command(command: str) -> None:
    # docs/ci.md has a test of its own, which compares.
    words = shlex.split(command.partition("||")[0])[2:]
    assert read_margins(compare.parser().parse_args(words).margin)


@pytest.mark.parametrize("name", ["README.md", "docs/start.md"])
def test_the_example_in_python_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code = re.search(r"```python\n(.*?)```", (ROOT / name).read_text(encoding="utf-8"), re.S)
    assert code
    exec(compile(code[1], name, "exec"), {})  # noqa: S102 - our own text
