"""Python files as syntax trees: lines, comments, definitions, names, imports. Nothing is imported.

`measure_code.py` counts with these functions, and says what each figure means.
"""

import ast
import io
import re
import tokenize
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

Graph: TypeAlias = Mapping[str, set[str]]
"""The modules that each module imports."""

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
DEFINITIONS = (*FUNCTIONS, ast.ClassDef)
PRAGMA = re.compile(
    r"noqa\b|type:\s*ignore|(fmt|ruff|mypy|pyright|pylint|isort|pragma|yapf)\s*:|!|-\*-", re.I
)
CONVENTIONAL = {"main"}
"""Names that any module may define, besides those in double underscores."""


@dataclass(frozen=True)
class Source:
    """A Python file of the checkout."""

    path: str
    """Relative to the checkout, with `/`."""
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        """The syntax tree."""
        return ast.parse(self.text, filename=self.path)

    @property
    def is_door(self) -> bool:
        """Whether this is the `__init__.py` of a package."""
        return self.path.endswith("/__init__.py")

    @property
    def folder(self) -> str:
        """The folder the file stands in."""
        return self.path.rpartition("/")[0]

    @property
    def module(self) -> str:
        """The dotted name: `harness.quant` for `harness/quant/__init__.py`."""
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    @property
    def package(self) -> str:
        """The top-level folder in `harness`, or `harness/*.py` for a file beside them."""
        parts = self.path.split("/")
        return "/".join(parts[:2]) if len(parts) > 2 else f"{parts[0]}/*.py"


@dataclass(frozen=True)
class Definition:
    """A function or class of a file."""

    node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    kind: str
    """`class`, `function`, `method`, or `nested` for a function in a function."""
    is_public: bool


def read_sources(root: Path, folder: str) -> list[Source]:
    """Return the Python files below a folder of the checkout; none if there is no such folder."""
    files = sorted((root / folder).rglob("*.py"))
    return [Source(f.relative_to(root).as_posix(), f.read_text("utf-8")) for f in files]


def definitions(
    tree: ast.AST, kind: str = "function", is_public: bool = True
) -> Iterator[Definition]:
    """Yield every function and class below a node; `kind` is that of the functions."""
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, DEFINITIONS):
            yield from definitions(node, kind, is_public)
            continue
        is_class = isinstance(node, ast.ClassDef)
        shown = is_public and not node.name.startswith("_")
        yield Definition(node, "class" if is_class else kind, shown)
        # No caller can reach what a function defines inside, so it is not public.
        yield from definitions(node, "method" if is_class else "nested", shown and is_class)


def functions(sources: Iterable[Source]) -> Iterator[tuple[Source, Definition]]:
    """Yield every function and method of some files."""
    for source in sources:
        yield from ((source, one) for one in definitions(source.tree) if one.kind != "class")


def docstring_lines(source: Source) -> set[int]:
    """Return the numbers of lines that hold a string as a statement."""
    strings = (
        node
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )
    return {n for node in strings for n in range(node.lineno, (node.end_lineno or 0) + 1)}


def is_comment(text: str) -> bool:
    """Whether a `#` token says something to a reader: `# noqa: S301  # our own file` does."""
    parts = (part.strip() for part in text.split("#"))
    return any(part and not PRAGMA.match(part) for part in parts)


def line_counts(source: Source) -> tuple[int, int, int]:
    """Return the numbers of code, docstring and comment lines of a file."""
    code, comments = set[int](), set[int]()
    for token in tokenize.generate_tokens(io.StringIO(source.text).readline):
        if token.type == tokenize.COMMENT:
            comments |= {token.start[0]} if is_comment(token.string) else set()
        elif token.string.strip():  # not a line break or an indentation
            code |= set(range(token.start[0], token.end[0] + 1))
    strings = docstring_lines(source)
    return len(code - strings), len(strings), len(comments)


def lines_of(node: ast.stmt) -> int:
    """Return how many lines a definition has, decorators left out."""
    return (node.end_lineno or node.lineno) - node.lineno + 1


def is_annotated(found: Definition) -> bool:
    """Whether every parameter of a function and its result have a type."""
    node = found.node
    if isinstance(node, ast.ClassDef):
        raise TypeError(f"found must be a function, got the class {node.name}")
    args = node.args
    parameters = [*args.posonlyargs, *args.args]
    decorators = {ast.unparse(decorator) for decorator in node.decorator_list}
    if found.kind == "method" and "staticmethod" not in decorators:
        parameters = parameters[1:]
    parameters += [*args.kwonlyargs, *(arg for arg in (args.vararg, args.kwarg) if arg)]
    return node.returns is not None and all(arg.annotation for arg in parameters)


def defined_names(tree: ast.AST) -> Iterator[str]:
    """Yield the names that a module defines at top level; imported ones are not among them."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, DEFINITIONS):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        # Names in an assignment, `if` or `try` belong to the module; those of a comprehension or
        # a lambda do not.
        elif not isinstance(node, ast.comprehension | ast.Lambda):
            yield from defined_names(node)


def shared_names(sources: Iterable[Source]) -> dict[str, list[str]]:
    """Return the names that two modules or more define, the most frequent first."""
    homes: dict[str, list[str]] = defaultdict(list)
    for source in sources:
        for name in set(defined_names(source.tree)) - CONVENTIONAL:
            if not (name.startswith("__") and name.endswith("__")):
                homes[name].append(source.module)
    shared = {name: sorted(where) for name, where in homes.items() if len(where) > 1}
    return dict(sorted(shared.items(), key=lambda item: (-len(item[1]), item[0])))


def exported_names(source: Source) -> set[str] | None:
    """Return the strings that are assigned or added to `__all__`, or None without one."""
    values = []
    for node in source.tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign) and node.value:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            values += [node.value for target in targets if ast.unparse(target) == "__all__"]
    parts = [part for value in values for part in ast.walk(value)]
    constants = [part.value for part in parts if isinstance(part, ast.Constant)]
    return {text for text in constants if isinstance(text, str)} if values else None


def import_statements(
    nodes: Iterable[ast.AST], late: bool
) -> Iterator[ast.Import | ast.ImportFrom]:
    """Yield the imports that run; those inside functions if `late`."""
    for node in nodes:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from import_statements(node.orelse, late)
        elif late or not isinstance(node, FUNCTIONS):
            yield from import_statements(ast.iter_child_nodes(node), late)


def origin(statement: ast.ImportFrom, source: Source) -> str:
    """Return the module after `from`, with the dots of a relative import resolved."""
    if not statement.level:
        return statement.module or ""
    package = source.folder.split("/")
    base = package[: len(package) - statement.level + 1]
    return ".".join([*base, statement.module] if statement.module else base)


def imported_modules(source: Source, modules: Mapping[str, Source], late: bool) -> set[str]:
    """Return the modules that the imports of a file name, without itself."""
    found = set[str]()
    for statement in import_statements(source.tree.body, late):
        if isinstance(statement, ast.Import):
            found.update(alias.name for alias in statement.names)
            continue
        base = origin(statement, source)
        # An exported name hides a module of that name: `harness.recipe.quantize` is a function.
        hidden = (exported_names(modules[base]) or set()) if base in modules else set()
        for alias in statement.names:
            whole = f"{base}.{alias.name}"
            is_module = whole in modules and (alias.name not in hidden or base == source.module)
            found.add(whole if is_module else base)
    return (found & modules.keys()) - {source.module}


def reachable(start: str, graph: Graph) -> set[str]:
    """Return the modules that a module imports, at first or at second hand."""
    found, waiting = set[str](), [start]
    while waiting:
        new = graph[waiting.pop()] - found
        found |= new
        waiting.extend(new)
    return found


def circles(graph: Graph) -> list[list[str]]:
    """Return the strongly connected components of two or more modules, the largest first."""
    reach = {module: reachable(module, graph) for module in graph}
    # Two modules are in one component if each reaches the other.
    components = {
        frozenset(other for other in reach[module] if module in reach[other]) for module in graph
    }
    return sorted((sorted(one) for one in components if one), key=lambda one: (-len(one), one))
