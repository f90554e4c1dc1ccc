"""The notebook uses the front doors only, and gives what is saved in it."""

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest
from notebooks import code_cells, execute
from repository import ROOT

from harness.models import cache

FILE = ROOT / "examples" / "first_run.ipynb"
NUMBER = re.compile(r"[-+]?\d+(\.\d+)?")


def shape(outputs: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Return what is printed, without numbers, which depend on the processor; of a table only that there is one."""
    return [
        (each["output_type"], NUMBER.sub("#", "".join(each["text"])) if "text" in each else "")
        for each in outputs
    ]


def test_the_notebook_runs_and_gives_what_it_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cache._held.clear()
    notebook = json.loads(FILE.read_text(encoding="utf-8"))
    saved = [cell["outputs"] for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(saved), "every code cell has its output saved"
    assert [shape(outputs) for outputs in execute(notebook)] == [
        shape(outputs) for outputs in saved
    ]
    assert "True" in "".join(saved[1][0]["text"])


def test_the_notebook_uses_front_doors_only() -> None:
    notebook = json.loads(FILE.read_text(encoding="utf-8"))
    imported: set[str] = set()
    for node in ast.walk(ast.parse("\n".join(code_cells(notebook)))):
        if isinstance(node, ast.Import):
            imported |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported |= {f"{node.module}.{name.name}" for name in node.names}
        elif isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "harness":
            imported.add(f"harness.{node.attr}")
    doors = {"harness.quant.quantize", "harness.quant.fake_quantize", "harness.quant.parse"}
    assert imported == {"torch", "harness", "harness.run", "harness.load_results", *doors}
