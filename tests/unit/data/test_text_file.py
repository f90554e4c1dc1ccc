"""Texts of the user's own: what is read, how it is cut, and what is refused."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from harness.calibration.calibration_set import CalibrationSet
from harness.calibration.text import calibration_text
from harness.data.source import DataSource
from harness.data.text_file import TextFile
from harness.engines.local.engine import LocalEngine
from harness.errors import DataError
from harness.models.loaded import LoadedModel
from harness.tasks.perplexity.documents import Documents
from harness.tasks.perplexity.perplexity import Perplexity

PROSE = "Der Zug fährt ab.\n\nEr hält nicht \u2028 an.\n"


def plain(folder: Path, content: bytes, name: str = "own.txt") -> TextFile:
    (folder / name).write_bytes(content)
    return TextFile(path=str(folder / name))


def rows(folder: Path, *lines: str, ends: str = "\n", **options: str) -> TextFile:
    (folder / "own.jsonl").write_bytes(ends.join(lines).encode())
    return TextFile(path=str(folder / "own.jsonl"), **options)


def test_plain_text_is_taken_as_it_is(tmp_path: Path) -> None:
    text = plain(tmp_path, PROSE.encode()).text()
    assert isinstance(TextFile(path="x"), DataSource)
    assert (text.text, text.documents, text.num_rows) == (PROSE, (PROSE,), 1)
    assert text.sha256 == hashlib.sha256(PROSE.encode()).hexdigest()
    assert text.name == "own.txt"


@pytest.mark.parametrize(
    "stored",
    [
        PROSE.encode("utf-8-sig"),
        PROSE.replace("\n", "\r\n").encode(),
        PROSE.replace("\n", "\r\n").encode("utf-8-sig"),
    ],
)
def test_how_a_file_is_stored_is_no_part_of_the_text(tmp_path: Path, stored: bytes) -> None:
    assert plain(tmp_path, stored).text() == plain(tmp_path, PROSE.encode()).text()


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\n\n"])
def test_rows_are_documents_joined_by_a_blank_line(tmp_path: Path, ends: str) -> None:
    # JSON leaves the line separator of Unicode as it is, and escapes CR and LF, which stay.
    parts = ["first", "one \u2028 row", "two\r\nlines"]
    lines = [json.dumps({"text": part, "n": 1}, ensure_ascii=False) for part in parts]
    text = rows(tmp_path, *lines, "", ends=ends).text()
    assert text.documents == tuple(parts)
    assert text.text == "first\n\none \u2028 row\n\ntwo\r\nlines"
    assert text.num_rows == 3


def test_field_of_a_row_can_be_named(tmp_path: Path) -> None:
    line = '{"text": "no", "body": "yes"}'
    assert rows(tmp_path, line, field="body").text().text == "yes"


def test_file_that_changes_is_read_again(tmp_path: Path) -> None:
    source = plain(tmp_path, b"before")
    assert source.text().text == "before"
    file = Path(source.path)
    stamp = file.stat().st_mtime_ns
    file.write_bytes(b"after")

    os.utime(file, ns=(stamp + 1, stamp + 1))
    assert source.text().text == "after"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "which is empty"),
        (b" \r\n\t\n", "which is empty"),
        (b"\xef\xbb\xbf", "which is empty"),
        ("good\nschön".encode("latin-1"), r"UTF-8, got the byte 0xf6 in line 2 of .*own.txt"),
        ("wide".encode("utf-16"), "UTF-8, got the byte 0xff in line 1"),
    ],
)
def test_file_that_says_nothing_readable_is_refused(
    tmp_path: Path, content: bytes, words: str
) -> None:
    with pytest.raises(DataError, match=words):
        plain(tmp_path, content).text()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "line 2: must be a JSON object"),
        ('["text"]', "line 2: must be a JSON object"),
        ('{"body": "x"}', "line 2: text must be a text that is not empty, got None"),
        ('{"text": 3}', "line 2: text must be a text that is not empty, got 3"),
        ('{"text": " "}', "line 2: text must be a text that is not empty, got ' '"),
        (r'{"text": "\ud800"}', "line 2: must be a JSON object in valid Unicode"),
    ],
)
def test_row_without_a_text_is_named(tmp_path: Path, line: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        rows(tmp_path, '{"text": "fine"}', line).text()


def test_missing_file_and_one_json_value_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.path must be a file, got"):
        TextFile(path=str(tmp_path / "nothing.txt")).text()
    with pytest.raises(ValueError, match=r"path must be plain text or JSONL"):
        TextFile(path="own.json")


def test_text_asks_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"needs questions, got the text .*use data=questions"):
        plain(tmp_path, b"text").questions()


def test_calibration_takes_it(tmp_path: Path, tiny: LoadedModel) -> None:
    source = plain(tmp_path, b"abcdefgh")
    assert calibration_text(source).text == "abcdefgh"
    ids = CalibrationSet(data=source, num_sequences=2, length=8).draw(tiny).ids
    assert [tiny.tokenizer.decode(row) for row in ids] == ["abcdefgh"] * 2


def test_tasks_read_rows_as_documents_and_as_one_text(tmp_path: Path, tiny: LoadedModel) -> None:
    source = rows(tmp_path, '{"text": "abcde"}', '{"text": "fgh"}')
    documents = Perplexity(data=source, segmentation=Documents(), window=16).run(LocalEngine(tiny))
    assert [item.scores["num_tokens"] for item in documents.samples] == [5, 3]
    assert documents.info.protocol.startswith("own.jsonl|lm-eval-rolling|max_length=16|")
    windows = Perplexity(data=source, window=5).run(LocalEngine(tiny))
    assert windows.info.protocol.startswith(r"own.jsonl|join=\n\n|L=5|")
    # "abcde", then the blank line and "fgh".
    assert windows.info.data["num_tokens"] == 10
    assert windows.info.data["num_rows"] == 2


def test_documents_are_taken_as_they_were_written(tmp_path: Path, tiny: LoadedModel) -> None:
    """What undoes the spaces of WikiText would change a text that has none."""
    page = "N N , = = x ; it 's"
    source = rows(tmp_path, json.dumps({"text": page}))
    result = Perplexity(data=source, segmentation=Documents(), window=64).run(LocalEngine(tiny))
    assert result.samples[0].scores["num_tokens"] == len(tiny.tokenizer(page)["input_ids"])


def test_same_text_in_other_documents_is_another_one(tmp_path: Path, tiny: LoadedModel) -> None:
    apart = rows(tmp_path, '{"text": "abc"}', '{"text": "def"}')
    whole = plain(tmp_path, b"abc\n\ndef")
    assert apart.text().sha256 == whole.text().sha256
    counts = [
        [item.scores["num_tokens"] for item in result.samples]
        for source in (apart, whole)
        for result in [
            Perplexity(data=source, segmentation=Documents(), window=8).run(LocalEngine(tiny))
        ]
    ]
    assert counts == [[3, 3], [8]]


def test_rows_are_documents_that_begin_where_they_were_joined(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    rows = ["one", "two\n\nparts", "three"]
    file.write_text("".join(f"{json.dumps({'text': row})}\n" for row in rows))
    text = TextFile(path=str(file)).text()
    ends = [*text.starts[1:], len(text.text) + 2]
    assert [
        text.text[start : end - 2] for start, end in zip(text.starts, ends, strict=True)
    ] == rows
    assert text.document_of([0, 2, 4, 5, 9, len(text.text) - 1]) == [0, 0, 0, 1, 1, 2]


def test_plain_file_is_one_document(tmp_path: Path) -> None:
    file = tmp_path / "own.txt"
    file.write_text("one\n\ntwo")
    assert TextFile(path=str(file)).text().starts == (0,)


def test_documents_with_the_same_words_are_one(tmp_path: Path) -> None:
    said = ("The same words.", "Other words.", "The  same\nwords.\n")
    text = rows(tmp_path, *(json.dumps({"text": each}) for each in said)).text()
    assert text.document_ids() == (0, 1, 0)
    assert text.document_of(text.starts) == [0, 1, 0]
