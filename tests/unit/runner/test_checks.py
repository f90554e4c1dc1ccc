"""What a recipe is calibrated on, and what of it a task scores."""

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from data_folder import PROSE, DataFolder
from runs import MakeSpec

from harness.backends.layer import LayerRule
from harness.backends.torchao.smoothquant import TorchaoSmoothQuantBackend
from harness.calibration.calibration_set import CalibrationSet
from harness.data.embedded import EmbeddedData
from harness.data.hub import HubData
from harness.data.text_file import TextFile
from harness.formats.integer import Integer
from harness.quant.granularity import Granularity
from harness.quant.schemes.block_scaled import BlockScaled
from harness.recipe import QuantRecipe
from harness.runner.checks import overlap_warnings
from harness.runner.on_file import calibration_of
from harness.runner.run import run
from harness.tasks.mmlu.direct import Direct
from harness.tasks.mmlu.mmlu import MMLU
from harness.tasks.perplexity.disjoint_windows import DisjointWindows
from harness.tasks.perplexity.perplexity import Perplexity

STATIC = (
    "+quant=w8a8_static",
    "quant.calibration.num_sequences=2",
    "quant.calibration.length=24",
    "task.window=32",
    "task.limit_windows=2",
)
ROWS = BlockScaled(element=Integer(bits=8), granularity=Granularity(block=(1, -1)))
WHOLE = BlockScaled(element=Integer(bits=8), granularity=Granularity(block=(-1, -1)))
SET = CalibrationSet(data=EmbeddedData(), num_sequences=3, length=7, seed=5)


def recipe(*, static: bool = False, **parts: Any) -> QuantRecipe:
    rule = LayerRule(match="*", weight=ROWS, input=WHOLE, static_input=static)
    return QuantRecipe(name="test", rules={"linear": rule}, **parts)


def test_static_scales_and_smoothquant_are_fitted_to_a_text_and_nothing_else_is() -> None:
    assert recipe(static=True, calibration=SET).calibrated_on == SET
    assert recipe(backend=TorchaoSmoothQuantBackend(calibration=SET)).calibrated_on == SET
    for other in (recipe(), recipe(calibration=SET), QuantRecipe()):
        assert other.calibrated_on is None
        assert calibration_of(other) is None
    found = calibration_of(recipe(static=True, calibration=SET))
    assert found is not None
    text = EmbeddedData().text()
    assert found.model_dump() == {
        "text": text.name,
        "sha256": sha256(text.text.encode()).hexdigest(),
        "num_sequences": 3,
        "length": 7,
        "seed": 5,
    }


def test_a_recipe_is_fitted_to_one_text() -> None:
    with pytest.raises(ValueError, match=r"rules\.linear must leave static_input out beside"):
        recipe(static=True, calibration=SET, backend=TorchaoSmoothQuantBackend(calibration=SET))


# What is scored.


def file(folder: Path, name: str, text: str) -> TextFile:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return TextFile(path=str(path))


def fitted_to(source: TextFile) -> QuantRecipe:
    return recipe(static=True, calibration=CalibrationSet(data=source))


def perplexity(source: TextFile) -> Perplexity:
    return Perplexity(data=source, segmentation=DisjointWindows())


def test_scored_text_is_found_under_another_name_and_only_there(tmp_path: Path) -> None:
    scored = file(tmp_path, "scored.txt", f"{PROSE}\n\n{PROSE} Twice.")
    copy = file(tmp_path, "copy.txt", f"A line before.\n{PROSE.upper()}")
    other = file(
        tmp_path, "other.txt", "Nothing of the kind stands here, whatever one looks for in it."
    )
    [warning] = overlap_warnings(fitted_to(copy), perplexity(scored))
    assert "1 of the 2 passages of scored.txt stand in copy.txt" in warning
    assert "too good" in warning
    assert overlap_warnings(fitted_to(other), perplexity(scored)) == ()
    assert overlap_warnings(recipe(), perplexity(scored)) == ()


def test_questions_asked_are_found_in_a_text(tmp_path: Path) -> None:
    asked = EmbeddedData().questions().questions[:2]
    blocks = [
        "\n".join([q.question, *(f"({c}) {w}" for c, w in zip("ABCD", q.choices, strict=True))])
        for q in asked
    ]
    source = file(tmp_path, "quiz.txt", "\n\n".join(["Hello.", *blocks]))
    task = MMLU(data=EmbeddedData(), answer=Direct())
    [warning] = overlap_warnings(fitted_to(source), task)
    assert warning.startswith(f"2 of the 281 questions: {asked[0].id}, {asked[1].id} stand in quiz")


@dataclass(frozen=True)
class Unknown:
    """A task that does not say what it scores."""

    name: str = "guest"
    is_timed: bool = False


def test_a_task_that_does_not_say_what_it_scores_is_named(tmp_path: Path) -> None:
    source = file(tmp_path, "a.txt", PROSE)
    [warning] = overlap_warnings(fitted_to(source), Unknown())  # type: ignore[arg-type]
    assert "what guest scores was not compared with a.txt" in warning
    assert overlap_warnings(fitted_to(source), Unknown(is_timed=True)) == ()  # type: ignore[arg-type]


def test_the_record_has_the_warning(make_spec: MakeSpec, data: DataFolder, tmp_path: Path) -> None:
    source = file(tmp_path, "same.txt", "\n\n".join(f"{PROSE} {n}" for n in range(3)))
    words = ("+data@quant.calibration.data=text", f"quant.calibration.data.path={source.path}")
    spec = make_spec(*STATIC, *words, "data=hub", f"data.path={data.root}")
    record = run(spec).stored.record
    assert any(
        "3 of the 3 passages of wikitext2-raw-v1/test stand in same" in w for w in record.warnings
    )


def test_five_dev_questions_of_mmlu_are_test_questions(hub_root: Path) -> None:
    source = HubData(path=str(hub_root))
    by_loop = [
        asked.id
        for asked in source.questions().questions
        if any(
            (asked.question, asked.choices) == (solved.question, solved.choices)
            for solved in (q for each in source.questions().examples.values() for q in each)
        )
    ]
    assert len(by_loop) == 5
    fitted = recipe(static=True, calibration=CalibrationSet(data=source))
    [warning] = overlap_warnings(fitted, MMLU(data=source, answer=Direct()))
    assert warning.startswith(
        f"5 of the 14,042 questions: {', '.join(by_loop)} stand in examples of mmlu/test"
    )
