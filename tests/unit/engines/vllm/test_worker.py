"""The worker runs where only vLLM is installed."""

import ast
import sys

from harness.engines.vllm.process import WORKER


def test_worker_imports_vllm_and_the_standard_library_alone() -> None:
    imported = set()
    for node in ast.walk(ast.parse(WORKER.read_text())):
        match node:
            case ast.Import(names=names):
                imported |= {each.name for each in names}
            case ast.ImportFrom(module=module, level=level):
                assert level == 0
                imported.add(str(module))
            case ast.Call(
                func=ast.Attribute(attr="import_module"), args=[ast.Constant(value=name)]
            ):
                imported.add(name)
            case ast.Call(func=ast.Attribute(attr="import_module")):
                raise AssertionError("a module is imported by a computed name")
    roots = {name.partition(".")[0] for name in imported}
    assert roots - sys.stdlib_module_names == {"vllm"}
