"""Run the code cells of a notebook in this process, without Jupyter."""

import ast
import io
from collections.abc import Mapping
from contextlib import redirect_stdout
from typing import Any


def code_cells(notebook: Mapping[str, Any]) -> list[str]:
    """Return the source of each code cell."""
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


def execute(notebook: Mapping[str, Any]) -> list[list[dict[str, Any]]]:
    """Run all code cells in one namespace; return for each the outputs that Jupyter would save, as plain text."""
    names: dict[str, Any] = {"__name__": "__main__"}
    found = []
    for source in code_cells(notebook):
        *statements, last = ast.parse(source).body
        printed, value = io.StringIO(), None
        if not isinstance(last, ast.Expr):
            statements, last = [*statements, last], None
        with redirect_stdout(printed):
            exec(compile(ast.Module(statements, []), "cell", "exec"), names)  # noqa: S102 - ours
            if last is not None:
                value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)  # noqa: S307 - ours
        outputs: list[dict[str, Any]] = []
        if printed.getvalue():
            outputs.append(
                {"output_type": "stream", "name": "stdout", "text": _lines(printed.getvalue())}
            )
        if value is not None:
            data = {"text/plain": _lines(repr(value))}
            outputs.append({"output_type": "execute_result", "data": data, "metadata": {}})
        found.append(outputs)
    return found


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)
