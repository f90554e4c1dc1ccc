"""Code that a configuration names outside of the package: which packages it is, and when its hash changes."""

import sys
from pathlib import Path

import pytest

from harness.runner import foreign_code as module
from harness.runner.foreign_code import foreign_code

CONFIG = {
    "allow_targets": ["lone", "folder.inner", "not_used"],
    "model": None,
    "quant": {
        "_target_": "harness.recipe.QuantRecipe",
        "rules": {"linear": {"weight": {"_target_": "lone.Format"}}},
        "parts": [{"_target_": "folder.inner.Part"}, {"_target_": "lone.Other"}, 3],
    },
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that Python imports from, with a module and a package without `__init__.py`."""
    (tmp_path / "lone.py").write_text("A = 1\n")
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    (tmp_path / "folder" / "inner" / "__init__.py").write_text("B = 1\n")
    (tmp_path / "folder" / "helper.py").write_text("C = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def in_a_new_process() -> dict[str, str]:
    module._sha256.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] in ("lone", "folder")]:
        del sys.modules[name]
    return foreign_code(CONFIG)


def test_packages_of_the_classes_are_named_and_no_others(place: Path) -> None:
    found = in_a_new_process()
    assert list(found) == ["folder", "lone"]
    assert all(len(sha256) == 64 for sha256 in found.values())
    assert in_a_new_process() == found
    assert foreign_code({"model": {"_target_": "harness.models.sources.TinyModel"}}) == {}


@pytest.mark.parametrize(
    ("file", "changed"),
    [("lone.py", "lone"), ("folder/inner/__init__.py", "folder"), ("folder/helper.py", "folder")],
)
def test_hash_changes_with_any_file_of_its_package(place: Path, file: str, changed: str) -> None:
    before = in_a_new_process()
    (place / file).write_text("D = 2\n")
    after = in_a_new_process()
    assert {name for name in after if after[name] != before[name]} == {changed}


def test_hash_is_that_of_the_code_that_this_process_runs(place: Path) -> None:
    before = in_a_new_process()
    (place / "lone.py").write_text("A = 2\n")
    assert foreign_code(CONFIG) == before


def test_hash_does_not_depend_on_where_the_code_lies(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = in_a_new_process()
    moved = place.rename(place.with_name("elsewhere"))
    monkeypatch.syspath_prepend(str(moved))
    assert in_a_new_process() == before
