"""Questions of the user's own: what a row may be, where examples come from, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from harness.calibration.text import calibration_text
from harness.data.question_file import QuestionFile
from harness.data.source import DataSource
from harness.engines.local.engine import LocalEngine
from harness.errors import ConfigError, DataError
from harness.models.loaded import LoadedModel
from harness.tasks.mmlu.direct import Direct
from harness.tasks.mmlu.generate import Generate
from harness.tasks.mmlu.mmlu import MMLU
from harness.tasks.mmlu.prompt import prompt

ROW: dict[str, Any] = {"question": "Which?", "choices": ["a", "b", "c", "d"], "answer": "C"}


def write(file: Path, *rows: dict[str, Any], ends: str = "\n", bom: bool = False) -> str:
    text = ends.join(json.dumps(row) for row in rows) + ends
    file.write_bytes(text.encode("utf-8-sig" if bom else "utf-8"))
    return str(file)


def asked(folder: Path, *rows: dict[str, Any], **options: Any) -> QuestionFile:
    return QuestionFile(path=write(folder / "own.jsonl", *rows), **options)


@pytest.mark.parametrize(("answer", "index"), [(0, 0), (3, 3), ("A", 0), ("D", 3)])
def test_answer_is_an_index_or_a_letter(tmp_path: Path, answer: Any, index: int) -> None:
    data = asked(tmp_path, ROW | {"answer": answer}).questions()
    assert [question.answer for question in data.questions] == [index]
    assert isinstance(QuestionFile(path="x"), DataSource)


def test_row_has_a_subject_and_an_id_or_gets_them(tmp_path: Path) -> None:
    data = asked(
        tmp_path, ROW, ROW | {"subject": "law"}, ROW, ROW | {"id": "mine"}, ROW | {"id": 7}
    ).questions()
    assert [question.id for question in data.questions] == [
        *("test/miscellaneous/0", "test/law/0", "test/miscellaneous/1", "mine", "7")
    ]
    assert data.subjects == ("law", "miscellaneous")
    assert data.name == "own.jsonl"
    assert (data.default_shots, data.max_shots) == (0, 0)
    assert prompt(data.questions[1], data.shots(data.questions[1], 0)) == (
        "The following are multiple choice questions (with answers) about law.\n\n"
        "Which?\nA. a\nB. b\nC. c\nD. d\nAnswer:"
    )


def test_examples_are_rows_of_split_dev_and_of_a_file(tmp_path: Path) -> None:
    solved = ROW | {"question": "Solved?"}
    other = write(tmp_path / "dev.jsonl", solved | {"id": "other", "subject": "law"})
    data = asked(
        tmp_path,
        ROW | {"subject": "law", "split": "test"},
        solved | {"subject": "law", "split": "dev"},
        examples=other,
    ).questions()
    [question] = data.questions
    assert [shot.id for shot in data.shots(question, 2)] == ["dev/law/0", "other"]
    assert (data.default_shots, data.max_shots) == (2, 2)


def test_shots_are_those_that_every_subject_has(tmp_path: Path) -> None:
    dev = [ROW | {"split": "dev", "subject": "law"}] * 7 + [ROW | {"split": "dev"}] * 6
    data = asked(tmp_path, ROW, ROW | {"subject": "law"}, *dev)
    assert (data.questions().default_shots, data.questions().max_shots) == (5, 6)
    assert MMLU(data=data, answer=Direct(), shots=6).num_shots() == 6
    with pytest.raises(ConfigError, match=r"must be 0\.\.6 with own\.jsonl, got 7; lower it, or"):
        MMLU(data=data, answer=Direct(), shots=7).num_shots()


@pytest.mark.parametrize("bom", [True, False])
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_how_a_file_is_stored_is_no_part_of_it(tmp_path: Path, ends: str, bom: bool) -> None:
    path = write(tmp_path / "own.jsonl", ROW, ROW, ends=ends, bom=bom)
    assert len(QuestionFile(path=path).questions().questions) == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"question": " "}, "question must be a text that is not empty"),
        ({"question": None}, "question must be a text that is not empty, got None"),
        ({"choices": ["a", "b", "c"]}, "choices must be four texts, got 3"),
        ({"choices": ["a", "b", "c", 4]}, "choices must be four texts"),
        ({"choices": "abcd"}, "choices must be four texts, got 'abcd'"),
        ({"answer": 4}, r"answer must be an index 0\.\.3 or a letter A\.\.D, got 4"),
        ({"answer": "E"}, r"answer must be an index 0\.\.3 or a letter A\.\.D, got 'E'"),
        ({"answer": "AB"}, r"answer must be .* got 'AB'"),
        ({"answer": True}, r"answer must be .* got True"),
        ({"answer": 1.0}, r"answer must be .* got 1\.0"),
        ({"answer": None}, r"answer must be .* got None"),
        ({"subject": ""}, "subject must be a text that is not empty"),
        ({"subject": 3}, "subject must be a text that is not empty, got 3"),
        ({"subject": ["law"]}, "subject must be a text that is not empty"),
        ({"split": "train"}, "split must be test or dev, got 'train'"),
        ({"id": [1]}, "id must be a text or an integer"),
    ],
)
def test_malformed_row_is_named(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=rf"own\.jsonl, line 2: {words}"):
        asked(tmp_path, ROW, ROW | change).questions()


def test_id_stands_once(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 3: id must be of one row, got 'x' as in .*line 1;"):
        asked(tmp_path, ROW | {"id": "x"}, ROW, ROW | {"id": "x"}).questions()
    again = write(tmp_path / "dev.jsonl", ROW | {"id": "x"})
    with pytest.raises(DataError, match=r"dev\.jsonl, line 1: id must be of one row, got 'x'"):
        asked(tmp_path, ROW | {"id": "x"}, examples=again).questions()


def test_files_without_questions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="got solved examples alone"):
        asked(tmp_path, ROW | {"split": "dev"}).questions()
    with pytest.raises(DataError, match=r"data\.examples must be a file, got"):
        asked(tmp_path, ROW, examples=str(tmp_path / "none.jsonl")).questions()
    test = write(tmp_path / "dev.jsonl", ROW | {"split": "test"})
    with pytest.raises(DataError, match=r"dev\.jsonl, line 1: split must be dev in a file of"):
        asked(tmp_path, ROW, examples=test).questions()
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(DataError, match="which is empty"):
        QuestionFile(path=str(tmp_path / "empty.jsonl")).questions()


def test_questions_are_no_text(tmp_path: Path) -> None:
    data = asked(tmp_path, ROW)
    for read in (data.text, lambda: calibration_text(data)):
        with pytest.raises(DataError, match="needs a text, got the questions"):
            read()
    solved = asked(tmp_path, ROW, ROW | {"split": "dev", "question": "Solved?"})
    assert calibration_text(solved).text == "Solved?\nA. a\nB. b\nC. c\nD. d\nAnswer: C"


@pytest.mark.parametrize("answer", [Direct(), Generate()], ids=lambda rule: rule.task_name)
def test_both_rules_of_mmlu_ask_them(tmp_path: Path, tiny: LoadedModel, answer: Any) -> None:
    dev = [ROW | {"split": "dev", "question": f"Example {index}?"} for index in range(2)]
    asking = [ROW | {"question": f"Question {index}?", "answer": index} for index in range(4)]
    result = MMLU(data=asked(tmp_path, *asking, *dev), answer=answer).run(LocalEngine(tiny))
    assert [item.id for item in result.samples] == [f"test/miscellaneous/{i}" for i in range(4)]
    assert result.info.protocol.startswith("own.jsonl|shots=2|")
    assert result.info.data["num_questions"] == 4
    for index, item in enumerate(result.samples):
        if isinstance(answer, Direct):
            assert item.scores["correct"] == (item.answer == "ABCD"[index])


def test_question_that_is_its_own_example_is_shown_as_lm_eval_does_and_warned_of(
    tmp_path: Path, tiny: LoadedModel
) -> None:
    dev = [ROW | {"split": "dev", "question": f"Question  {index}?"} for index in (1, 7, 8)]
    asking = [ROW | {"question": f"question {index}?"} for index in range(4)]
    task = MMLU(data=asked(tmp_path, *asking, *dev), answer=Direct())
    [question] = [q for q in task.questions() if q.question == "question 1?"]
    assert len(task.data.questions().shots(question, 3)) == 3
    [warning] = [text for text in task.run(LocalEngine(tiny)).warnings if "with its answer" in text]
    assert warning.startswith(
        "1 of 4 questions: the examples before it hold the question itself with its answer"
    )
    assert "test/miscellaneous/1;" in warning


def changed(**fields: Any) -> dict[str, Any]:
    return ROW | {"question": "Another one?"} | fields


@pytest.mark.parametrize(
    ("rows", "num"),
    [
        ([ROW, changed()], 0),
        ([ROW, ROW | {"choices": ["a", "b", "c", "e"]}], 0),
        ([ROW, ROW, ROW, changed()], 2),
        ([ROW, ROW | {"question": " which? ", "subject": "law"}], 1),
        ([ROW, ROW | {"choices": ["d", "c", "b", "a"], "answer": "B"}], 1),
        ([ROW | {"split": "dev"}, ROW], 0),
    ],
)
def test_questions_that_repeat_are_warned_of_with_their_number(
    tmp_path: Path, tiny: LoadedModel, rows: list[dict[str, Any]], num: int
) -> None:
    result = MMLU(data=asked(tmp_path, *rows), answer=Direct(), shots=0).run(LocalEngine(tiny))
    total = sum(row.get("split") != "dev" for row in rows)
    found = [warning for warning in result.warnings if "another one" in warning]
    assert len(found) == bool(num)
    if num:
        assert found[0].startswith(
            f"{num} of {total} questions repeat{'s' * (num == 1)} another one"
        )
        assert found[0].endswith(f"only {total - num} questions differ")
    assert result.metrics[0].n == total
