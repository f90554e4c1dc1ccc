"""The calibration text is part of a run's identity, and what it shares with scored data is said."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hydra import compose, initialize_config_dir

from harness import config
from harness.backends.layer import LayerRule
from harness.backends.torchao.smoothquant import TorchaoSmoothQuantBackend
from harness.calibration.calibration_set import CalibrationSet
from harness.config import CONF
from harness.data.embedded import EmbeddedData
from harness.data.hub import HubData
from harness.data.text_file import TextFile
from harness.formats.integer import Integer
from harness.models import cache
from harness.quant.granularity import Granularity
from harness.quant.schemes.block_scaled import BlockScaled
from harness.recipe import QuantRecipe
from harness.results.record import RunRecord
from harness.results.store import read
from harness.runner.calibrated import calibration_of, is_of_recipe, overlap_warnings
from harness.runner.run import RunSpec, run
from harness.tasks.mmlu.direct import Direct
from harness.tasks.mmlu.mmlu import MMLU
from harness.tasks.perplexity.disjoint_windows import DisjointWindows
from harness.tasks.perplexity.perplexity import Perplexity

PROSE = (
    "It was a quiet year for the town, and most of what happened there was forgotten within a week."
)
STATIC = (
    "+quant=w8a8_static",
    "quant.calibration.num_sequences=2",
    "quant.calibration.length=24",
    "task.window=32",
    "task.limit_windows=2",
)
MakeSpec = Callable[..., RunSpec]


@pytest.fixture(autouse=True)
def _no_model_held() -> Iterator[None]:
    yield
    cache._held.clear()


@pytest.fixture
def make_spec(tmp_path: Path) -> MakeSpec:
    def make(*overrides: str) -> RunSpec:
        config.register()
        common = ["model=tiny", "device=cpu", f"results_dir={tmp_path / 'results'}"]
        with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
            resolved = config.resolve(compose("config", overrides=[*common, *overrides]))
        return RunSpec.build(resolved)

    return make


@dataclass(frozen=True)
class Folder:
    """A folder of data sets that grows while a test runs."""

    root: Path

    def wikitext(self, split: str, *rows: str) -> None:
        file = f"wikitext-2-raw-v1/{split}-00000-of-00001.parquet"
        self._write("Salesforce/wikitext", file, {"text": list(rows)})

    def mmlu(self, split: str, *questions: str) -> None:
        columns: dict[str, list[Any]] = {
            "question": list(questions),
            "subject": ["s"] * len(questions),
            "choices": [["a", "b", "c", "d"]] * len(questions),
            "answer": [2] * len(questions),
        }
        self._write("cais/mmlu", f"all/{split}-00000-of-00001.parquet", columns)

    def _write(self, name: str, file: str, columns: dict[str, list[Any]]) -> None:
        path = self.root / name / file
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), path)


@pytest.fixture
def data(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path / "data")
    folder.wikitext("test", *(f"{PROSE} {n}" for n in range(3)))
    folder.mmlu("test", "Asked?")
    folder.mmlu("dev", *(f"Solved {n}?" for n in range(9)))
    return folder


def calibrated(spec: RunSpec) -> tuple[bool, RunRecord]:
    """Run, and return whether it was on file, and the record."""
    outcome = run(spec)
    return outcome.skipped, read(outcome.path)


def test_another_text_under_the_same_configuration_is_measured_and_kept_beside_the_first(
    make_spec: MakeSpec, data: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARNESS_DATA", str(data.root))
    monkeypatch.setattr("harness.data.hub.HubData.__hash__", object.__hash__)  # no cached reading
    skipped, examples = calibrated(make_spec(*STATIC))
    assert not skipped
    assert calibrated(make_spec(*STATIC))[0]
    data.wikitext("train", *(f"Quite another text, {n} times {n * n}." for n in range(40)))
    skipped, training = calibrated(make_spec(*STATIC))
    assert not skipped
    assert examples.config_hash == training.config_hash
    assert examples.metrics[0].value != training.metrics[0].value
    rows = [f"Solved {n}?\nA. a\nB. b\nC. c\nD. d\nAnswer: C" for n in range(9)]
    for record, name, text in (
        (examples, "examples of mmlu/test", "\n\n".join(rows)),
        (
            training,
            "wikitext2-raw-v1/train",
            "\n\n".join(f"Quite another text, {n} times {n * n}." for n in range(40)),
        ),
    ):
        assert record.quant is not None
        found = record.quant.calibration
        assert found is not None
        assert (found.text, found.sha256) == (name, sha256(text.encode()).hexdigest())
        assert (found.num_sequences, found.length, found.seed) == (2, 24, 0)
    # Both are on file, each for its own text.
    assert calibrated(make_spec(*STATIC)) == (True, training)
    (data.root / "Salesforce/wikitext/wikitext-2-raw-v1/train-00000-of-00001.parquet").unlink()
    assert calibrated(make_spec(*STATIC)) == (True, examples)


def test_record_that_does_not_name_its_text_is_measured_again(
    make_spec: MakeSpec, data: Folder
) -> None:
    spec = make_spec(*STATIC, f"data.path={data.root}")
    outcome = run(spec)
    record = read(outcome.path)
    assert record.quant is not None
    older = record.quant.model_copy(update={"calibration": None})
    spec.store.write(outcome.path, record.model_copy(update={"quant": older}))
    assert not run(spec).skipped
    assert run(spec).skipped


def test_recipe_without_calibration_names_no_text_and_stays_on_file(
    make_spec: MakeSpec, data: Folder
) -> None:
    for words in ((), ("+quant=int8_row",)):
        spec = make_spec(*words, "task.window=32", f"data.path={data.root}")
        _, record = calibrated(spec)
        assert record.quant is not None
        assert record.quant.calibration is None
        assert run(spec).skipped


def test_record_under_another_name_or_another_order_of_rules_is_not_of_the_recipe(
    make_spec: MakeSpec, data: Folder
) -> None:
    rule = (
        "+quant.rules.second={_target_: harness.recipe.LayerRule, match: '*.mlp.*', weight: "
        "{_target_: harness.quant.Unscaled, element: {_target_: harness.formats.Native, name: bf16}}}"
    )
    words = ("quant.rules.linear.match='*self_attn*'", rule, "task.window=32")
    spec = make_spec("+quant=int8_row", *words, f"data.path={data.root}")
    _, record = calibrated(spec)
    assert run(spec).skipped
    assert is_of_recipe(record, spec.recipe, None)
    renamed = replace(spec.recipe, name="int8_row (second=..)")
    assert not is_of_recipe(record, renamed, None)
    turned = replace(spec.recipe, rules=dict(reversed(spec.recipe.rules.items())))
    assert not is_of_recipe(record, turned, None)
    assert not run(replace(spec, recipe=turned)).skipped


# What recipes are fitted to.

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


def test_the_record_has_the_warning(make_spec: MakeSpec, data: Folder, tmp_path: Path) -> None:
    source = file(tmp_path, "same.txt", "\n\n".join(f"{PROSE} {n}" for n in range(3)))
    words = ("+data@quant.calibration.data=text", f"quant.calibration.data.path={source.path}")
    _, record = calibrated(make_spec(*STATIC, *words, f"data.path={data.root}"))
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
