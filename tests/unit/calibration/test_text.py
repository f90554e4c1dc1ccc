"""Which text methods calibrate on: not the one that is scored, if there is another."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from recipe_builders import Examples

from harness.calibration.text import calibration_text
from harness.data.embedded import EmbeddedData
from harness.data.hub import HubData

EMBEDDED = EmbeddedData()


def test_solved_examples_serve_where_none_is_asked() -> None:
    text = calibration_text(Examples(asked="asked", solved=["one", "two"]))
    solved = "Why {}?\nA. a\nB. b\nC. c\nD. d\nAnswer: B"
    assert text.text == f"{solved.format('one')}\n\n{solved.format('two')}"
    assert "examples of set" in text.warnings[0]


def test_scored_text_serves_with_a_warning_where_nothing_else_is() -> None:
    for data in (Examples(asked="one", solved=["one"]), Examples(asked="one", solved=[])):
        text = calibration_text(data)
        assert text.text == "what is scored"
        assert "scored too" in text.warnings[0]
    embedded = calibration_text(EMBEDDED)
    assert embedded.text == EMBEDDED.text().text
    assert "too good" in embedded.warnings[0]


def write(file: Path, columns: dict[str, list[object]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), file)


def mmlu(root: Path) -> None:
    for split, word in (("test", "asked"), ("dev", "solved")):
        row = {
            "question": [f"Is this {word}?"],
            "subject": ["s"],
            "choices": [["a", "b", "c", "d"]],
            "answer": [2],
        }
        write(root / f"cais/mmlu/all/{split}-00000-of-00001.parquet", row)


def wikitext(root: Path, split: str, rows: list[object]) -> None:
    folder = root / "Salesforce/wikitext/wikitext-2-raw-v1"
    write(folder / f"{split}-00000-of-00001.parquet", {"text": rows})


def test_hub_gives_the_training_split(tmp_path: Path) -> None:
    wikitext(tmp_path, "test", ["scored"])
    wikitext(tmp_path, "train", ["", " = A = ", "Words."])
    text = calibration_text(HubData(path=str(tmp_path)))
    assert text.text == "\n\n = A = \n\nWords."
    assert text.name == "wikitext2-raw-v1/train"
    assert text.warnings == ()


def test_hub_without_the_training_split_gives_dev_questions_and_says_so(tmp_path: Path) -> None:
    wikitext(tmp_path, "test", ["scored"])
    mmlu(tmp_path)
    text = calibration_text(HubData(path=str(tmp_path)))
    assert "Is this solved?" in text.text
    assert "asked" not in text.text
    assert "scored" not in text.text
    assert "no place has the training split" in text.warnings[0]
