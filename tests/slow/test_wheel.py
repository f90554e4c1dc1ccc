"""The wheel of `make wheel`: what is in it, and the demonstration from it in a clean environment."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from repository import CONF, ROOT

from harness import __version__
from harness.results.record import Status
from harness.results.store import ResultStore

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = ["pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run([sys.executable, "-m", *command], check=True)
    [built] = folder.iterdir()
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A new virtual environment with the wheel and its dependencies: gigabytes, removed at the end."""
    folder = tmp_path_factory.mktemp("clean") / "venv"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    constraints = ["--constraint", str(ROOT / "constraints.txt")]
    install = ["-m", "pip", "install", "--quiet", *constraints, f"{wheel}[all]"]
    subprocess.run([folder / "bin" / "python", *install], check=True, env=clean())
    yield folder
    shutil.rmtree(folder)


def clean() -> dict[str, str]:
    """The environment of this process without a path to the source tree."""
    return {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}


def test_name_files_and_script(wheel: Path) -> None:
    assert wheel.name == f"llm_quant_harness-{__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as content:
        names = set(content.namelist())
        facts = f"llm_quant_harness-{__version__}.dist-info"
        scripts = content.read(f"{facts}/entry_points.txt").decode()
        metadata = content.read(f"{facts}/METADATA").decode()
    assert "quant-harness = harness.script.main:main" in scripts
    assert "\nName: llm-quant-harness\n" in metadata
    missing = [
        str(file.relative_to(ROOT))
        for folder in (CONF, ROOT / "harness", ROOT / "hydra_plugins")
        for file in folder.rglob("*")
        if file.suffix in (".py", ".yaml", ".typed")
        and str(file.relative_to(ROOT)).replace("conf/", "harness/conf/", 1) not in names
    ]
    assert missing == []
    assert not [name for name in names if name.startswith(("tests", "conf", "results"))]


def test_the_demonstration_runs_without_the_source_tree(environment: Path, tmp_path: Path) -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    [demo] = re.findall(r"^DEMO := (.*)$", text, re.MULTILINE)
    script = environment / "bin" / "quant-harness"

    def call(*words: str) -> str:
        done = subprocess.run(
            [script, *words], capture_output=True, text=True, cwd=tmp_path, env=clean(), check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert call("--version") == f"quant-harness {__version__}\n"
    for line in re.findall(r"^\t\$\(RUN\) -m harness (.*\$\(DEMO\).*)$", text, re.MULTILINE):
        less = re.sub(r"task.limit_windows=\d+", "task.limit_windows=1", line)
        call("run", *shlex.split(less.replace("$(DEMO)", demo)))
    assert "reports/demo.md" in call("report", "results/demo")
    stored, problems = ResultStore(root=tmp_path / "results" / "demo").load()
    assert problems == []
    assert [item.record.status for item in stored] == [Status.OK] * 10
    record = stored[0].record
    assert record.command.startswith("quant-harness run --multirun data=embedded")
    assert record.provenance.packages["quant-harness"] == __version__
    assert record.provenance.git_commit is None, "no source tree is around it"


def test_the_library_and_its_types_are_there(environment: Path, tmp_path: Path) -> None:
    code = (
        "import harness, importlib.metadata, pathlib; folder = "
        "pathlib.Path(harness.__file__).parent; "
        "print(importlib.metadata.version('llm-quant-harness'), (folder / 'py.typed').is_file(), "
        "'site-packages' in str(folder)); r = harness.run('model=tiny', 'data=embedded', "
        "'task.window=64', 'task.limit_windows=1'); print(r.status, "
        "len(harness.load_results('results')) > 0)"
    )
    done = subprocess.run(
        [environment / "bin" / "python", "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=clean(),
        check=True,
    )
    assert done.stdout.split("\n")[:2] == [f"{__version__} True True", "ok True"]
