"""Print the figures of the source tree: sizes, comments, names, exports, imports, tests.

    python scripts/measure_code.py [FOLDER_OF_A_CHECKOUT]       this checkout by default

Prints one Markdown table per topic. The script only reads files and imports none of them, so it
measures an old checkout as well. What the columns count:

    code lines      lines with at least one token that is neither a comment nor a docstring
    docstring lines lines of strings that are statements: docstrings, and the notes below a field
    comment lines   lines with a `#` comment, alone or behind code. Pragmas (`noqa`, `type: ignore`,
                    `fmt: off`, ...) do not count; a reason behind a second `#` does
    function lines  from `def` to the last line: signature and docstring count, decorators do not
    p90             the nearest rank: the least length that 90 % of the files or functions keep to
    public          no leading underscore in the name or in the class around it; top-level
                    functions, classes and their methods
    annotated       every parameter but `self` and `cls`, and the result; private and nested
                    functions count too
    files in a room files directly in a folder, `__init__.py` included
    circle          a strongly connected component of two or more modules. An edge is an import
                    that names a module. Left out: imports under `if TYPE_CHECKING:`, and the
                    `__init__.py` files that Python runs on the way to a module
"""

import argparse
import ast
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from source_tree import (
    Source,
    circles,
    definitions,
    exported_names,
    functions,
    imported_modules,
    is_annotated,
    line_counts,
    lines_of,
    read_sources,
    shared_names,
)
from tabulate import tabulate

Row: TypeAlias = Sequence[object]
Table: TypeAlias = list[Row]
"""The first row holds the headers."""
WORST = 25
"""How many shared names the list shows."""
LONG, LIMIT, SHORT = 250, 400, 30
WIDTH = 100
WIDE_PLACES = {
    "harness": ("harness/**/*.py",),
    "hydra_plugins": ("hydra_plugins/**/*.py",),
    "scripts": ("scripts/*.py",),
    "examples": ("examples/**/*.py",),
    "tests": ("tests/**/*.py",),
    "conf": ("conf/**/*.yaml",),
    "docs and *.md": ("docs/**/*.md", "*.md"),
}


def share(part: int, whole: int) -> str:
    """Return a part in hundredths of the whole, `-` of nothing."""
    return f"{100 * part / whole:.1f}" if whole else "-"


def sizes(sources: Sequence[Source]) -> Table:
    """Count files, code and comments of each package."""
    counts: dict[str, list[tuple[int, int, int]]] = defaultdict(list)
    for source in sources:
        counts[source.package].append(line_counts(source))
    rows = dict(sorted(counts.items()))
    rows["all"] = [one for found in counts.values() for one in found]
    table: Table = [
        ["package", "files", "code lines", "docstring lines", "comment lines", "comments / 100"]
    ]
    for package, found in rows.items():
        code, strings, comments = (sum(column) for column in zip(*found, strict=True))
        table.append([package, len(found), code, strings, comments, share(comments, code)])
    return table


def shared_name_counts(sources: Sequence[Source]) -> Table:
    """Count the names that two modules or more define."""
    shared = shared_names(sources)
    private = {name: where for name, where in shared.items() if name.startswith("_")}
    public = {name: where for name, where in shared.items() if name not in private}
    table: Table = [["names", "in two modules or more", "in three or more", "definitions"]]
    for label, found in (("public", public), ("private", private), ("all", shared)):
        three = sum(len(where) > 2 for where in found.values())
        table.append([label, len(found), three, sum(map(len, found.values()))])
    return table


def worst_names(sources: Sequence[Source]) -> Table:
    """List the names that the most modules define."""
    table: Table = [["name", "modules", "where"]]
    for name, where in list(shared_names(sources).items())[:WORST]:
        homes = ", ".join(module.removeprefix("harness.") for module in where)
        table.append([f"`{name}`", len(where), homes])
    return table


def exports(sources: Iterable[Source]) -> Table:
    """Count the names that each package exports."""
    doors = {source.folder: exported_names(source) for source in sources if source.is_door}
    open_doors = {folder: names for folder, names in doors.items() if names is not None}
    rows: Table = [[folder, len(names)] for folder, names in open_doors.items()]
    total = [f"{len(open_doors)} of {len(doors)} packages", sum(map(len, open_doors.values()))]
    return [["package with `__all__`", "exported names"], *rows, total]


def rank(values: Iterable[int], part: float) -> int:
    """Return the least value that a part of the values keeps to: `part=0.9` is p90."""
    ordered = sorted(values)
    return ordered[max(math.ceil(part * len(ordered)), 1) - 1]


def spread(lengths: Mapping[str, int]) -> list[str | int]:
    """Return the number, median, p90 and maximum of named lengths, and the name of the longest."""
    values = list(lengths.values())
    middle = f"{statistics.median(values):g}"
    return [
        len(values),
        middle,
        rank(values, 0.9),
        max(values),
        max(lengths, key=lengths.__getitem__),
    ]


def file_lengths(places: Mapping[str, Sequence[Source]]) -> Table:
    """Describe the lengths of files in lines."""
    limits = [f"over {LIMIT}", f"over {LONG}", f"under {SHORT} without `__init__.py`"]
    table: Table = [["in", "files", "median", "p90", "max", "longest", *limits]]
    for place, sources in places.items():
        lengths = {source.path: len(source.text.splitlines()) for source in sources}
        doors = {source.path for source in sources if source.is_door}
        if not lengths:
            continue
        over = [sum(n > limit for n in lengths.values()) for limit in (LIMIT, LONG)]
        under = sum(n < SHORT for path, n in lengths.items() if path not in doors)
        table.append([place, *spread(lengths), *over, under])
    return table


def function_lengths(places: Mapping[str, Sequence[Source]]) -> Table:
    """Describe the lengths of functions in lines."""
    table: Table = [["in", "functions", "median", "p90", "max", "longest"]]
    for place, sources in places.items():
        lengths = {
            f"{source.path}:{found.node.lineno} {found.node.name}": lines_of(found.node)
            for source, found in functions(sources)
        }
        if lengths:
            table.append([place, *spread(lengths)])
    return table


def docstrings(sources: Sequence[Source]) -> Table:
    """Count public definitions with a docstring, and functions with all their types."""
    found = [one for source in sources for one in definitions(source.tree) if one.is_public]
    table: Table = [["what", "number", "of those", "%"]]

    def add(label: str, flags: Sequence[bool]) -> None:
        table.append([label, len(flags), sum(flags), share(sum(flags), len(flags))])

    add("modules with a docstring", [bool(ast.get_docstring(s.tree)) for s in sources])
    for kind, label in {"class": "classes", "function": "functions", "method": "methods"}.items():
        flags = [bool(ast.get_docstring(one.node)) for one in found if one.kind == kind]
        add(f"public {label} with a docstring", flags)
    add("all three with a docstring", [bool(ast.get_docstring(one.node)) for one in found])
    add("functions fully annotated", [is_annotated(one) for _, one in functions(sources)])
    return table


def rooms(sources: Iterable[Source]) -> Table:
    """Count the files directly in each folder, and the folders in it."""
    files: dict[str, int] = defaultdict(int)
    for source in sources:
        files[source.folder] += 1
    inside = [folder.rpartition("/")[0] for folder in files]
    rows = [[folder, files[folder], inside.count(folder)] for folder in sorted(files)]
    return [["room", "files", "rooms in it"], *rows]


def import_circles(sources: Sequence[Source]) -> Table:
    """Count the import circles, without and with imports that run inside functions."""
    modules = {source.module: source for source in sources}
    table: Table = [["imports", "between modules", "circles", "modules in circles", "which"]]
    for label, late in (("at the top of a module", False), ("inside functions too", True)):
        graph = {name: imported_modules(one, modules, late) for name, one in modules.items()}
        found = circles(graph)
        which = "; ".join(", ".join(one) for one in found) or "-"
        edges = sum(map(len, graph.values()))
        table.append([label, edges, len(found), sum(map(len, found)), which])
    return table


def count_tests(sources: Iterable[Source]) -> Table:
    """Count the test functions of each folder of tests; a parametrized one counts once."""
    counts: dict[str, list[int]] = defaultdict(list)
    for source in sources:
        if source.path.rpartition("/")[2].startswith("test_"):
            names = [one.node.name for _, one in functions([source]) if one.kind != "nested"]
            counts[source.package].append(sum(name.startswith("test_") for name in names))
    rows: Table = [[folder, len(each), sum(each)] for folder, each in sorted(counts.items())]
    every = [count for each in counts.values() for count in each]
    return [["tests in", "test files", "test functions"], *rows, ["all", len(every), sum(every)]]


def wide_lines(root: Path) -> Table:
    """Count the lines of more than 100 columns."""
    over = f"over {WIDTH} columns"
    table: Table = [["in", "files", "lines", over, "%", "of those rows of a table", "widest"]]
    for place, patterns in WIDE_PLACES.items():
        files = [file for pattern in patterns for file in root.glob(pattern)]
        lines = [line for file in files for line in file.read_text("utf-8").splitlines()]
        wide = [line for line in lines if len(line) > WIDTH]
        cells = sum(line.lstrip().startswith("|") for line in wide)
        widest = max(map(len, lines), default=0)
        figures = [len(lines), len(wide), share(len(wide), len(lines)), cells, widest]
        table += [[place, len(files), *figures]] if files else []
    return table


def measure(root: Path) -> dict[str, Table]:
    """Return the table of every topic."""
    harness, tests = read_sources(root, "harness"), read_sources(root, "tests")
    places = {"harness": harness, "scripts": read_sources(root, "scripts"), "tests": tests}
    return {
        "Code and comments": sizes(harness),
        "Names defined at top level in two modules or more": shared_name_counts(harness),
        f"The {WORST} names that most modules define": worst_names(harness),
        "Exports": exports(harness),
        "Lengths of files [lines]": file_lengths(places),
        "Lengths of functions [lines]": function_lengths(places),
        "Docstrings and annotations": docstrings(harness),
        "Files in each room": rooms(harness),
        "Import circles": import_circles(harness),
        "Tests": count_tests(tests),
        "Wide lines": wide_lines(root),
    }


def main() -> None:
    """Print the tables of the checkout that the command line names."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    here = Path(__file__).resolve().parents[1]
    parser.add_argument("folder", type=Path, nargs="?", default=here, help="a checkout")
    folder = parser.parse_args().folder
    if not any(folder.glob("harness/**/*.py")):
        parser.error(f"folder must hold a folder harness/ with Python files, got {folder}")
    for topic, (headers, *rows) in measure(folder).items():
        print(f"## {topic}\n\n{tabulate(rows, headers=headers, tablefmt='github')}\n")


if __name__ == "__main__":
    main()
