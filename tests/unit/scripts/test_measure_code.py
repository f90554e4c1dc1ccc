"""Figures of the source tree, on small sources whose figures are counted by hand."""

import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csgraph

sys.path.append(str(Path(__file__).parents[3] / "scripts"))

import measure_code
import source_tree
from source_tree import Source

LOOP = '''"""One line of docstring."""

import os  # noqa: F401

# A step.
TABLE = {
    "a": 1,  # behind code
}
"""A note
in two lines."""
TEXT = """not a

docstring"""
ONE = 1  # type: ignore[x]  # the reason
TWO = 2  # fmt: skip


def first(a: int, *rest: str, b: int = 1) -> int:
    """Public."""
    def inner(x):
        return x
    return inner(a)


async def _second(a):
    # noqa
    return a


class Shown:
    """Public."""

    def told(self, a: int) -> None:
        """Public."""

    def silent(self) -> None:
        pass

    def __eq__(self, other: object) -> bool:
        return True

    @staticmethod
    def free(a) -> None:
        pass


class _Hidden:
    def told(self) -> None:
        pass
'''


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


def sources(root: Path, files: dict[str, str]) -> list[Source]:
    return source_tree.read_sources(write(root, files), "harness")


def graph(root: Path, files: dict[str, str], late: bool = False) -> dict[str, set[str]]:
    modules = {source.module: source for source in sources(root, files)}
    return {name: source_tree.imported_modules(one, modules, late) for name, one in modules.items()}


def test_every_line_is_code_docstring_comment_or_nothing() -> None:
    # Code: import, 3 of TABLE, 3 of TEXT, ONE, TWO; 4 of first, 2 of _second; Shown, 1 of told,
    # 2 of silent, 2 of __eq__, 3 of free; 3 of _Hidden.
    # Docstrings: the module's, 2 of the note, those of first, Shown and told.
    # Comments: the step, the one behind code, the reason.
    code = 1 + 3 + 3 + 2 + 4 + 2 + 1 + 1 + 2 + 2 + 3 + 3
    assert source_tree.line_counts(Source("harness/loop.py", LOOP)) == (code, 6, 3)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# Steps of E4M3.", True),
        ("# type of a weight", True),
        ("#", False),
        ("#!/usr/bin/env python", False),
        ("# NOQA", False),
        ("# noqa: S105 - a unit, not a secret", False),
        ("# type: ignore[x]", False),
        ("# type: ignore[x]  # noqa: S105", False),
        ("# type: ignore[x]  # the stubs lack it", True),
        ("# pragma: no cover", False),
    ],
)
def test_pragma_is_no_comment(text: str, expected: bool) -> None:
    assert source_tree.is_comment(text) is expected


def test_sizes_are_summed_over_a_package_and_its_folders(tmp_path: Path) -> None:
    files = {
        "harness/run.py": "# why\nx = 1\n",
        "harness/quant/a.py": "a = 1\nb = 2\n",
        "harness/quant/deep/b.py": "# why\n# and how\nc = 3\nd = 4\n",
    }
    assert measure_code.sizes(sources(tmp_path, files))[1:] == [
        ["harness/*.py", 1, 1, 0, 1, "100.0"],
        ["harness/quant", 2, 4, 0, 2, "50.0"],
        ["all", 3, 5, 0, 3, "60.0"],
    ]


def test_shared_names_are_those_that_two_modules_define_at_top_level(tmp_path: Path) -> None:
    files = {
        "harness/a.py": "import os\nSIZE = 1\n_rest, other = 1, 2\ndef main(): inner = 1\n",
        "harness/b.py": "import os\nSIZE: int = 2\nclass _rest: field = 1\ndef main(): ...\n",
        "harness/c.py": "if True:\n SIZE = [x for x in ()]\n__all__ = ['x']\nfield = inner = 1\n",
        "harness/d.py": "from harness.a import other\n__all__ = ['y']\nx = {}\nx['other'] = 1\n",
    }
    found = sources(tmp_path, files)
    modules = ["harness.a", "harness.b", "harness.c"]
    assert source_tree.shared_names(found) == {"SIZE": modules, "_rest": modules[:2]}
    assert measure_code.shared_name_counts(found)[1:] == [
        ["public", 1, 1, 3],
        ["private", 1, 0, 2],
        ["all", 2, 1, 5],
    ]
    assert measure_code.worst_names(found)[1:] == [["`SIZE`", 3, "a, b, c"], ["`_rest`", 2, "a, b"]]


def test_exports_are_the_strings_of_all(tmp_path: Path) -> None:
    files = {
        "harness/__init__.py": "__version__ = '1'\n",
        "harness/a/__init__.py": "__all__ = ['x', 'y']\n__all__ += ['z']\n",
        "harness/b/__init__.py": "__all__: tuple[str, ...] = ('x',)\n",
        "harness/b/own.py": "__all__ = ['no package']\n",
    }
    rows = measure_code.exports(sources(tmp_path, files))[1:]
    assert rows == [["harness/a", 3], ["harness/b", 1], ["2 of 3 packages", 4]]


@pytest.mark.parametrize(
    ("values", "expected"), [([7], 7), (range(1, 11), 9), (range(1, 12), 10), ([1] * 9 + [5], 1)]
)
def test_p90_is_the_nearest_rank(values: list[int], expected: int) -> None:
    assert measure_code.rank(values, 0.9) == expected


def test_lengths_of_files_and_functions(tmp_path: Path) -> None:
    files = {
        "harness/__init__.py": "",
        "harness/a.py": "@cache\ndef f(\n    x,\n):\n    return x\n" + "\n" * 24,  # 29 lines
        "harness/b.py": "def g():\n    def h(): ...\n" + "\n" * 249,  # 251
        "harness/c.py": "\n" * 401,
    }
    places = {"harness": sources(tmp_path, files), "tests": []}
    lengths = measure_code.file_lengths(places)[1:]
    assert lengths == [["harness", 4, "140", 401, 401, "harness/c.py", 1, 2, 1]]
    lengths = measure_code.function_lengths(places)[1:]
    assert lengths == [["harness", 3, "2", 4, 4, "harness/a.py:2 f"]]


def test_docstrings_of_what_is_public_and_types_of_all_functions() -> None:
    # Public: first, Shown, told, silent, free. Types lack: inner, _second, free.
    assert measure_code.docstrings([Source("harness/loop.py", LOOP)])[1:] == [
        ["modules with a docstring", 1, 1, "100.0"],
        ["public classes with a docstring", 1, 1, "100.0"],
        ["public functions with a docstring", 1, 1, "100.0"],
        ["public methods with a docstring", 3, 1, "33.3"],
        ["all three with a docstring", 5, 3, "60.0"],
        ["functions fully annotated", 8, 5, "62.5"],
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("def f(): ...", False),
        ("def f() -> int: ...", True),
        ("def f(self) -> int: ...", False),
        ("def f(a: int, /, *, b) -> int: ...", False),
        ("def f(a: int, *rest) -> int: ...", False),
        ("def f(a: int, **rest) -> int: ...", False),
        ("class A:\n def f(self, /, a: int) -> int: ...", True),
        ("class A:\n def f(self, a) -> int: ...", False),
        ("class A:\n @classmethod\n def f(cls) -> int: ...", True),
        ("class A:\n @staticmethod\n def f(a) -> int: ...", False),
    ],
)
def test_fully_annotated_is_every_parameter_and_the_result(text: str, expected: bool) -> None:
    ((_, found),) = source_tree.functions([Source("harness/a.py", text)])
    assert source_tree.is_annotated(found) is expected


def test_files_of_a_room_are_those_directly_in_it(tmp_path: Path) -> None:
    names = ["harness/__init__.py", "harness/a/x.py", "harness/a/y.py", "harness/a/deep/z.py"]
    rows = measure_code.rooms(sources(tmp_path, dict.fromkeys(names, "")))[1:]
    assert rows == [["harness", 1, 1], ["harness/a", 2, 1], ["harness/a/deep", 1, 0]]


def test_import_is_an_edge_to_the_module_that_it_names(tmp_path: Path) -> None:
    files = {
        "harness/__init__.py": "",
        "harness/a/__init__.py": "from harness.a.x import shown\n__all__ = ['shown']\n",
        "harness/a/x.py": "import os\nfrom . import y\nfrom ..b import f\n",
        "harness/a/y.py": "import harness.b\nif 1:\n    from harness.a import x\n",
        "harness/a/shown.py": "from harness.a import shown, y\n",
        "harness/b.py": "def f():\n    from harness.a import x\n",
    }
    early = {
        "harness": set(),
        "harness.a": {"harness.a.x"},
        "harness.a.x": {"harness.a.y", "harness.b"},
        "harness.a.y": {"harness.b", "harness.a.x"},
        # The door exports another `shown`, which hides the module.
        "harness.a.shown": {"harness.a", "harness.a.y"},
        "harness.b": set(),
    }
    assert graph(tmp_path, files) == early
    assert graph(tmp_path, files, late=True) == early | {"harness.b": {"harness.a.x"}}


def test_import_for_types_alone_is_no_edge(tmp_path: Path) -> None:
    text = "if TYPE_CHECKING:\n    import harness.b\nelse:\n    import harness.c\n"
    files = {"harness/a.py": text, "harness/b.py": "", "harness/c.py": ""}
    assert graph(tmp_path, files)["harness.a"] == {"harness.c"}


def test_circles_are_counted_without_and_with_late_imports(tmp_path: Path) -> None:
    files = {
        "harness/a.py": "import harness.b\n",
        "harness/b.py": "import harness.a\nimport harness.c\n",
        "harness/c.py": "def f():\n    import harness.a\n",
    }
    assert measure_code.import_circles(sources(tmp_path, files))[1:] == [
        ["at the top of a module", 3, 1, 2, "harness.a, harness.b"],
        ["inside functions too", 4, 1, 3, "harness.a, harness.b, harness.c"],
    ]


@pytest.mark.parametrize("seed", range(20))
def test_circles_are_scipys_strong_components(seed: int) -> None:
    edges = np.random.default_rng(seed).random((12, 12)) < 0.1
    np.fill_diagonal(edges, False)
    names = [f"m{i:02}" for i in range(12)]
    graph = {name: {names[j] for j in np.flatnonzero(edges[i])} for i, name in enumerate(names)}
    _, labels = csgraph.connected_components(edges, connection="strong")
    components = [[names[i] for i in np.flatnonzero(labels == k)] for k in set(labels)]
    expected = sorted(one for one in components if len(one) > 1)
    assert sorted(source_tree.circles(graph)) == expected


def test_test_functions_are_counted_once_and_only_in_test_files(tmp_path: Path) -> None:
    one = "def test_a(): ...\nclass TestB:\n    def test_b(self): ...\n    def other(self): ...\n"
    files = {
        "tests/unit/deep/test_x.py": one,
        "tests/unit/test_y.py": "def test_c():\n    def test_inner(): ...\n",
        "tests/unit/conftest.py": "def test_none(): ...\n",
        "tests/test_z.py": "",
    }
    found = source_tree.read_sources(write(tmp_path, files), "tests")
    rows = measure_code.count_tests(found)[1:]
    assert rows == [["tests/*.py", 1, 0], ["tests/unit", 2, 3], ["all", 3, 3]]


def test_wide_line_has_more_than_100_columns(tmp_path: Path) -> None:
    files = {
        "harness/a.py": "#" * 100 + "\n" + "#" * 101 + "\n\n\n",
        "docs/deep/a.md": "|" * 120 + "\n",
        "README.md": "é" * 101 + "\n" + "é" * 100 + "\n",
    }
    assert measure_code.wide_lines(write(tmp_path, files))[1:] == [
        ["harness", 1, 4, 1, "25.0", 0, 101],
        ["docs and *.md", 2, 3, 2, "66.7", 1, 120],
    ]


def test_command_prints_a_table_per_topic_of_another_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, {"harness/loop.py": LOOP})
    monkeypatch.setattr(sys, "argv", ["measure_code.py", str(tmp_path)])
    measure_code.main()
    printed = capsys.readouterr().out
    assert printed.count("## ") == printed.count("\n|--") == 11
    assert "| harness/*.py |" in printed


def test_folder_without_a_harness_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["measure_code.py", str(tmp_path)])
    with pytest.raises(SystemExit):
        measure_code.main()
    assert "must hold a folder harness/" in capsys.readouterr().err
