"""pyproject.toml requires what the code imports, and extras are imported only by the features that need them."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata, packages_distributions

from packaging.specifiers import SpecifierSet
from repository import ROOT

FOLDERS = ("harness", "hydra_plugins")
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for folder in FOLDERS
    for path in sorted((ROOT / folder).rglob("*.py"))
}
EXTRAS_HOMES = {
    "harness.display.labels": "plots",
    "harness.engines.lm_eval": "lmeval",
    "harness.models.sources.gguf_check": "gguf",
    "harness.models.sources.gguf_copy": "gguf",
    "harness.models.sources.gguf_header": "gguf",
    "harness.tensor.plot": "plots",
}
"""Modules that import an extra's packages at their top -> the extra. Functions import these modules."""
NOT_IMPORTED = {"accelerate": "device_map of transformers", "tabulate": "to_markdown of pandas"}
"""Required packages that another library imports for us -> what for."""
BROUGHT = {"datasets": "lmeval", "tqdm": "lmeval", "nvidia-ml-py": "gpu"}
"""Distributions that an extra installs, and that may be absent here or unnamed in pyproject.toml."""
NAMES = {
    "pynvml": "nvidia-ml-py",
    "mlflow": "mlflow-skinny",
    "trackio": "trackio",
    "wandb": "wandb",
}
"""Distributions of modules that are not installed where tests run."""

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
INSTALLED = packages_distributions()


def normal(name: str) -> str:
    return re.split(r"[^\w.-]", name)[0].lower().replace("_", "-")


REQUIRED = {normal(each) for each in PROJECT["dependencies"]}
EXTRAS = {
    extra: {normal(each) for each in packages}
    for extra, packages in PROJECT["optional-dependencies"].items()
    if extra not in ("all", "dev")
}


def imported(tree: ast.AST, *, at_import: bool = True) -> Iterator[tuple[str, bool]]:
    """Yield (module, whether it is imported with the file) of a syntax tree; types are left out."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, at_import) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None
            yield node.module, at_import
            # `from package import module` imports the module too.
            yield from ((f"{node.module}.{alias.name}", at_import) for alias in node.names)
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        yield from imported(node, at_import=at_import and not inside)


IMPORTS = {
    module: set(imported(ast.parse(path.read_text(encoding="utf-8"))))
    for module, path in MODULES.items()
}


def distributions(module: str, *, at_import: bool) -> set[str]:
    """Distributions that a module imports with the file, or in functions."""
    own = {*FOLDERS, *sys.stdlib_module_names}
    tops = {name.split(".")[0] for name, first in IMPORTS[module] if first is at_import} - own
    return {normal(NAMES.get(top) or INSTALLED[top][0]) for top in tops}


def test_the_core_requires_what_it_imports_and_nothing_else() -> None:
    core = MODULES.keys() - EXTRAS_HOMES.keys()
    needed = set().union(*(distributions(module, at_import=True) for module in core))
    assert needed | NOT_IMPORTED.keys() == REQUIRED


def test_what_functions_import_is_required_or_in_an_extra() -> None:
    declared = REQUIRED.union(BROUGHT, *EXTRAS.values())
    lazy = set().union(*(distributions(module, at_import=False) for module in MODULES))
    assert {"lm-eval", "matplotlib"} <= lazy <= declared


def test_packages_of_extras_are_imported_by_their_homes_only_when_these_are_asked_for() -> None:
    for module, extra in EXTRAS_HOMES.items():
        assert EXTRAS[extra] & distributions(module, at_import=True), module
        assert distributions(module, at_import=True) <= REQUIRED | EXTRAS[extra], module
    early = {
        f"{module} imports {home}"
        for module in MODULES.keys() - EXTRAS_HOMES.keys()
        for home in EXTRAS_HOMES
        if (home, True) in IMPORTS[module]
    }
    assert early == set()


def test_all_has_every_extra_that_installs_without_a_compiler_or_a_gpu() -> None:
    [everything] = PROJECT["optional-dependencies"]["all"]
    named = set(re.findall(r"[a-z]+", everything.partition("[")[2]))
    trackers = {"mlflow", "trackio", "wandb"}  # each user has one of them at most
    assert named == EXTRAS.keys() - {"gpu", "llamacpp"} - trackers
    assert "llm-quant-harness[all]" in PROJECT["optional-dependencies"]["dev"]


def test_every_pinned_package_runs_on_the_oldest_python() -> None:
    oldest = PROJECT["requires-python"].removeprefix(">=") + ".0"
    pins = re.findall(r"(?m)^([\w.-]+)==", (ROOT / "constraints.txt").read_text(encoding="utf-8"))
    found = {name: _requires_python(name) for name in pins}
    assert sum(map(bool, found.values())) > 50, "most pinned packages are installed here"
    # pip ends with "ResolutionImpossible" on a system's own Python, which is rarely the newest.
    assert {n: r for n, r in found.items() if r and not SpecifierSet(r).contains(oldest)} == {}


def _requires_python(name: str) -> str:
    try:
        return metadata(name).get("Requires-Python", "")
    except PackageNotFoundError:
        return ""
