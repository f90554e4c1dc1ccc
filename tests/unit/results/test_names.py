"""The names that reports look up are the names that tasks write."""

import ast

from repository import ROOT

from harness.cli import old_words
from harness.results import names
from harness.results.store import read


def test_every_name_is_written_by_a_task() -> None:
    trees = [ast.parse(file.read_text()) for file in (ROOT / "harness/tasks").rglob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    written = {node.value for node in nodes}
    # Tasks put some names together; published records have those.
    for file in (ROOT / "results" / "published").glob("*-smollm2/*/*/*.json"):
        written |= {metric.name.rpartition("/")[2] for metric in read(file).metrics}
    known = {k: v for k, v in vars(names).items() if k.isupper() and isinstance(v, str)}
    assert len(known) > 40
    # Records of an earlier version have the names of its tasks.
    written |= old_words.TASKS.keys()
    assert {name: text for name, text in known.items() if text not in written} == {}
