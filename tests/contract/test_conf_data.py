"""Every data source in conf/ builds, and is one: it gives text and questions, or says in one error what gives them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from repository import ROOT

from harness.config import build
from harness.data.source import DataSource, QuestionSet, Text
from harness.errors import DataError

CONF = ROOT / "conf" / "data"
NAMES = sorted(file.stem for file in CONF.glob("*.yaml"))
ROW = {"question": "Which?", "choices": ["a", "b", "c", "d"], "answer": "C", "text": "A row."}

Compose = Callable[..., dict[str, Any]]
each_source = pytest.mark.parametrize("name", NAMES)


@pytest.fixture
def source(composed: Compose, tmp_path: Path, name: str) -> Any:
    """Build a data source; one that reads a file gets one."""
    (tmp_path / "own.jsonl").write_text(json.dumps(ROW) + "\n", encoding="utf-8")
    needs_file = "path: ???" in (CONF / f"{name}.yaml").read_text(encoding="utf-8")
    changes = [f"data.path={tmp_path / 'own.jsonl'}"] if needs_file else []
    return build(composed(f"data={name}", *changes)["data"], "data")


@each_source
def test_source_is_frozen_and_of_the_interface(source: Any) -> None:
    assert isinstance(source, DataSource)
    assert hash(source) == hash(source)


@each_source
def test_source_gives_data_or_says_what_does(
    source: Any, name: str, request: pytest.FixtureRequest
) -> None:
    if name == "hub":
        request.getfixturevalue("hub_root")
    found: list[Text | QuestionSet] = []
    refused: list[str] = []
    for read in (source.text, source.questions):
        try:
            found.append(read())
        except DataError as reason:
            refused.append(str(reason))
    assert found
    assert all("use data=" in words for words in refused)
    for data in found:
        if isinstance(data, Text):
            assert data.text
            assert data.documents
        else:
            assert data.questions
            assert data.default_shots <= data.max_shots


@each_source
def test_file_says_what_it_is(name: str) -> None:
    assert (CONF / f"{name}.yaml").read_text(encoding="utf-8").startswith("# ")
