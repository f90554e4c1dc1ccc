"""Damaged data files of a user: one line that names the file, and never a traceback."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.calibration.text import TRAINING, calibration_text
from harness.data import hub
from harness.data.hub import HubData
from harness.data.question_file import QuestionFile
from harness.data.text_file import TextFile
from harness.errors import DataError

LINES: Mapping[str, bytes] = {
    "empty": b"",
    "binary": bytes(range(256)),
    "zeros": b"\0\0\0\0",
    "a list": b"[]\n",
    "a number": b"5\n",
    "nested too deeply": b'{"text":' * 100_000,
    "a list nested too deeply": b"[" * 100_000,
    "NaN": b'{"text": NaN}\n',
    "half a character": b'{"text": "\\ud800"}\n',
    "an integer of 5,000 digits": b'{"text": ' + b"9" * 5000 + b"}",
    "UTF-16": '{"text": "a"}'.encode("utf-16"),
    "null": b'{"text": null}',
    "another field": b'{"a": "b"}',
}
Tables = Mapping[str, pa.Table | bytes | None]
TABLES: Tables = {
    "empty": b"",
    "binary": bytes(range(256)) * 10,
    "JSON": b"[]",
    "a folder": None,
    "integers": pa.table({"text": [1, 2], "question": [1, 2]}),
    "null": pa.table({"text": [None, "a"]}),
    "other columns": pa.table({"x": [1]}),
}


def told(read: Callable[[], object]) -> str:
    """Return what a user is told of a file: one line."""
    with pytest.raises(DataError) as caught:
        read()
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 600
    return text


@pytest.fixture(autouse=True)
def _forget() -> None:
    """Data is taken as unchanging within a process; tests change it."""
    hub._wikitext.cache_clear()
    hub._mmlu.cache_clear()


@pytest.mark.parametrize("damage", LINES)
def test_jsonl(tmp_path: Path, damage: str) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_bytes(LINES[damage])
    assert "mine.jsonl" in told(TextFile(path=str(file)).text)
    assert "mine.jsonl" in told(QuestionFile(path=str(file)).questions)


@pytest.mark.parametrize("path", ["a" * 300, "/proc/self/mem", "/dev/null", "/", "~nobody"])
def test_path_that_leads_to_no_file(path: str) -> None:
    assert "data.path must be a file" in told(TextFile(path=path).text)
    assert "data.path must be a file" in told(QuestionFile(path=path).questions)


@pytest.mark.parametrize("damage", TABLES)
def test_parquet(tmp_path: Path, damage: str) -> None:
    texts, questions = tmp_path / "Salesforce/wikitext", tmp_path / "cais/mmlu"
    for file in (
        texts / "wikitext-2-raw-v1/test-0.parquet",
        texts / TRAINING.replace("*", "0"),
        questions / "all/test-0.parquet",
        questions / "all/dev-0.parquet",
    ):
        content = TABLES[damage]
        file.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            file.mkdir()
        elif isinstance(content, bytes):
            file.write_bytes(content)
        else:
            pq.write_table(content, file)
    data = HubData(path=str(tmp_path))
    assert str(texts) in told(data.text)
    assert str(questions) in told(data.questions)
    assert str(tmp_path) in told(lambda: calibration_text(data))
