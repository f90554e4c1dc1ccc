"""Calibration sequences: the same for a seed, equally long, out of a text that no task scores."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from harness.calibration.calibration_set import CalibrationSet
from harness.calibration.text import calibration_text
from harness.data.embedded import EmbeddedData
from harness.data.hub import HubData
from harness.data.source import Question, QuestionSet, Text
from harness.errors import DataError
from harness.models.loaded import LoadedModel

EMBEDDED = EmbeddedData()


def test_sequences_are_windows_of_the_text_and_the_same_for_a_seed(tiny: LoadedModel) -> None:
    chosen = CalibrationSet(data=EMBEDDED, num_sequences=5, length=60, seed=3)
    ids, text = chosen.draw(tiny)
    assert ids.shape == (5, 60)
    # The tokenizer of the tiny model has a token for each byte, but for four answers.
    spelled = tiny.tokenizer.batch_decode(ids)
    assert all(part.strip("\ufffd") in text.text for part in spelled)
    assert torch.equal(chosen.draw(tiny).ids, ids)
    other = CalibrationSet(data=EMBEDDED, num_sequences=5, length=60, seed=4)
    assert not torch.equal(other.draw(tiny).ids, ids)


def test_drawing_leaves_the_global_random_state_alone(tiny: LoadedModel) -> None:
    before = torch.random.get_rng_state()
    CalibrationSet(data=EMBEDDED, num_sequences=2, length=8).draw(tiny)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_whole_text_is_the_longest_sequence(tiny: LoadedModel) -> None:
    data = Examples(asked="asked", solved=["one"])
    length = len(tiny.tokenizer(calibration_text(data).text)["input_ids"])
    ids = CalibrationSet(data=data, num_sequences=2, length=length).draw(tiny).ids
    assert torch.equal(ids[0], ids[1])
    with pytest.raises(DataError, match=rf"at most {length}.*got {length + 1}; lower it"):
        CalibrationSet(data=data, num_sequences=2, length=length + 1).draw(tiny)


def test_sequence_longer_than_the_model_was_made_for_is_refused(tiny: LoadedModel) -> None:
    with pytest.raises(DataError, match="8192 that tiny was made for"):
        CalibrationSet(data=EMBEDDED, length=9000).draw(tiny)


@pytest.mark.parametrize("sizes", [(0, 8), (8, 0)])
def test_sizes_that_show_nothing_are_refused(sizes: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"num_sequences and length must be >= 1"):
        CalibrationSet(data=EMBEDDED, num_sequences=sizes[0], length=sizes[1])


# Which text.


@dataclass(frozen=True)
class Examples:
    """Questions, and solved ones beside them."""

    asked: str
    solved: Sequence[str]

    def text(self) -> Text:
        return Text(name="scored", text="what is scored", sha256="0", num_rows=1)

    def questions(self) -> QuestionSet:
        def question(name: str) -> Question:
            return Question(
                id=name,
                subject="s",
                question=f"Why {name}?",
                choices=("a", "b", "c", "d"),
                answer=1,
            )

        return QuestionSet(
            name="set",
            questions=(question(self.asked),),
            examples={"s": tuple(question(name) for name in self.solved)},
            default_shots=0,
            max_shots=0,
        )


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
