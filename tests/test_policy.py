"""Rules of the source tree that no linter knows."""

import ast
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml
from repository import ROOT

from harness.config import OWN_TARGET
from harness.results.record import RunRecord
from harness.results.store import read

SOURCES = sorted((ROOT / "harness").rglob("*.py"))
CONF_FILES = sorted((ROOT / "conf").rglob("*.yaml"))
RESULTS = sorted((ROOT / "results" / "published").rglob("*.json"))
MOST_LINES = 400


def ids(path: Path) -> str:
    return str(path.relative_to(ROOT))


def checked_in(files: list[Path]) -> list[Path]:
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "results"], capture_output=True, text=True, check=False
    )
    known = {ROOT / line for line in listed.stdout.splitlines()}
    return [file for file in files if file in known]


def test_there_is_something_to_check() -> None:
    assert len(SOURCES) > 30
    assert len(CONF_FILES) > 20


def test_source_files_keep_to_their_budget_and_print_nothing() -> None:
    too_long, printing = [], []
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        if len(text.splitlines()) > MOST_LINES:
            too_long.append(ids(path))
        calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
        names = [call.func for call in calls if isinstance(call.func, ast.Name)]
        printing += [f"{ids(path)}:{name.lineno}" for name in names if name.id == "print"]
    assert (too_long, printing) == ([], [])


@pytest.mark.parametrize("word", ["util", "helper", "manager", "misc", "common"])
def test_no_file_is_named_after_nothing(word: str) -> None:
    named = [path for path in ROOT.rglob("*.py") if word in path.stem and ".venv" not in path.parts]
    assert named == []


def test_records_statistics_and_reports_import_without_torch() -> None:
    parts = ("results", "report", "stats", "claims", "anchors", "audit", "compare", "errors")
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in SOURCES
        if path.relative_to(ROOT / "harness").parts[0].removesuffix(".py") in parts
        and path.stem not in ("__init__", "__main__")
    ]
    assert {"harness.results.store", "harness.results.record", "harness.stats.clusters"} <= set(
        modules
    )
    heavy = ("torch", "transformers", "hydra")
    code = (
        f"import sys, {', '.join(modules)}\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_tasks_leave_torch_to_engines() -> None:
    """`matmul` asks no engine; `parity`, `lm_eval` and `throughput` use torch's random numbers.

    `throughput` also asks `harness.machine` about a device.
    """
    with_torch = {
        *("matmul/matmul.py", "matmul/operands.py"),
        *("parity/parity.py", "lm_eval/guards.py"),
        *(f"throughput/{name}.py" for name in ("prompts", "throughput", "roofline")),
    }
    folder = ROOT / "harness" / "tasks"
    found: dict[str, set[str]] = {}
    for path in folder.rglob("*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        names = {
            alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names
        }
        for node in nodes:
            if isinstance(node, ast.ImportFrom):
                names |= {f"{node.module}.{alias.name}" for alias in node.names}
        place = path.relative_to(folder)
        if place != Path("base.py"):
            found[str(place)] = {name for name in names if name.split(".")[0] == "torch"}
    assert {place for place, names in found.items() if names} == with_torch
    assert not [name for names in found.values() for name in names if "nn" in name.split(".")]


def test_help_and_mistakes_import_no_torch() -> None:
    code = (
        "import sys, harness.cli.run\n"
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_schema_in_the_documentation_is_that_of_the_code() -> None:
    documented = json.loads((ROOT / "docs" / "record.schema.json").read_text(encoding="utf-8"))
    assert documented == RunRecord.model_json_schema(mode="serialization")


def test_conf_files_are_yaml_with_a_comment_first() -> None:
    without = []
    for path in CONF_FILES:
        text = path.read_text(encoding="utf-8")
        assert isinstance(yaml.safe_load(text), dict), path
        comments = [line.lstrip("# ") for line in text.splitlines() if line.startswith("#")]
        says = any(comment and not comment.startswith("@package") for comment in comments)
        if not (text.startswith("# ") and says):
            without.append(ids(path))
    assert without == []


def test_a_class_name_in_conf_means_one_class() -> None:
    # Runs on file are identified by the names of their classes; see harness/identity.py.
    targets = {path for file in CONF_FILES for path in OWN_TARGET.findall(file.read_text())}
    assert len(targets) > 40
    names = Counter(path.rpartition(".")[2] for path in targets)
    assert [name for name, count in names.items() if count > 1] == []


def test_checked_in_results_are_whole_records_without_nan() -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} in a checked-in result")

    for path in checked_in(RESULTS):
        json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
        if path.parent.name.startswith(("bench_", "simulation")):  # the output of a script
            continue
        record = read(path)
        if record.samples_file is not None:
            assert path.with_name(record.samples_file).is_file(), path


WRITING = {"write_text", "write_bytes", "mkstemp", "mkdtemp", "TemporaryDirectory"}
WRITERS = {
    "harness/export/companions.py": "into the folder of an export",
    "harness/export/card.py": "into the folder of an export",
    "harness/export/model_config.py": "into the folder of an export",
    "harness/export/shards.py": "into the folder of an export",
    "harness/machine/memory.py": "to the kernel",
}
"""Modules that write by themselves, and where to."""


def test_everything_is_written_by_the_one_writer() -> None:
    found = [
        f"{ids(path)}:{node.lineno}"
        for path in SOURCES
        if not ids(path).startswith("harness/output/") and ids(path) not in WRITERS
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in WRITING
    ]
    assert found == [], "write with harness.output, which checks the place and leaves no half file"
