"""Differences up to the noise floor are not claimed: log-losses, divergences and answers."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import builders
import numpy as np
import pytest
from studies import MakeRecord

from harness.claims.at_once import at_once
from harness.claims.claim import Claim, answer
from harness.claims.grouping import comparable
from harness.claims.verdict import Verdict
from harness.results.record import Metric, SampleScore
from harness.results.store import ResultStore, Stored

File = Callable[..., Path]
RIGHT = np.arange(1000) % 4 == 0
TEXT = ("kl_mean", "ln_ppl_ratio")


def metric(name: str, value: float, n: int = 500) -> Metric:
    return builders.metric(name, value, unit="fraction", n=n, n_of="question")


def file_floor(
    tmp_path: Path,
    make_record: MakeRecord,
    flips: Mapping[str, float],
    *,
    variants: Sequence[str] = ("batch", "attention"),
    n: int = 500,
    model: str = "m",
) -> None:
    """File a noise floor of no divergence on n tokens, with `flips` on n questions."""
    text = {f"{variant}/{name}": 0.0 for variant in variants for name in TEXT}
    metrics = tuple(metric(name, value, n) for name, value in (text | dict(flips)).items())
    # Another number of tokens is another text.
    record = make_record("none", task="noise_floor", metrics=metrics, data=f"text-{n}")
    store = ResultStore(root=tmp_path / "results")
    path = store.path(record, task="noise_floor", model=model, recipe="none")
    samples = [SampleScore(id=f"q{i}", cluster="c", scores={"correct": 1.0}) for i in range(n)]
    name, digest = store.write_samples(path, samples)
    update = {"samples_file": name, "samples_sha256": digest}
    store.write(path, record.model_copy(update=update))


def file_loss(file_answers: File, num: int = 30) -> Path:
    """File a baseline and a recipe that answers `num` of 1,000 questions wrong in addition."""
    worse: np.ndarray = RIGHT.copy()
    worse[np.flatnonzero(RIGHT)[:num]] = False
    file_answers(RIGHT)
    return file_answers(worse, recipe="int4")


@pytest.mark.parametrize(("share", "verdict"), [(0.01, Verdict.WORSE), (0.05, Verdict.CANNOT_TELL)])
def test_a_loss_of_no_more_answers_than_flip_without_quantization_is_not_claimed(
    make_record: MakeRecord, file_answers: File, tmp_path: Path, share: float, verdict: Verdict
) -> None:
    file_loss(file_answers)  # 3 % of the answers, all in one direction
    file_floor(tmp_path, make_record, {"batch/flips": share, "attention/flips": share / 2})
    store = ResultStore(root=tmp_path / "results")
    answered = answer(comparable(store.load()[0]))
    [claim] = [c for each in answered for c in each.against_baseline.values()]
    assert isinstance(claim, Claim)
    assert claim.evidence.floor == share
    assert claim.verdict is verdict


@pytest.mark.parametrize("model", ["m", "baseline of m"])
def test_a_run_that_ends_finds_the_noise_floor_on_file(
    make_record: MakeRecord, file_answers: File, tmp_path: Path, model: str
) -> None:
    path = file_loss(file_answers)
    file_floor(tmp_path, make_record, {"batch/flips": 0.05}, model=model)
    store = ResultStore(root=tmp_path / "results")
    known = store.beside(path)
    record = next(each.record for each in known if each.path == path)
    # Records made by hand do not name the recipe of the command.
    run = Stored(path=path, record=record.model_copy(update={"recipe": "int4"}))
    said = at_once(run, known)
    assert any("the difference is not larger than the noise floor" in line for line in said)


def test_a_floor_of_another_type_alone_is_none(
    make_record: MakeRecord, file_answers: File, tmp_path: Path
) -> None:
    file_loss(file_answers)
    file_floor(tmp_path, make_record, {}, variants=("dtype",))
    [answered, _] = answer(comparable(ResultStore(root=tmp_path / "results").load()[0]))
    assert answered.floor is None


def test_answers_and_text_may_have_their_floors_from_two_runs(
    make_record: MakeRecord, file_answers: File, tmp_path: Path
) -> None:
    file_loss(file_answers)
    file_floor(tmp_path, make_record, {"batch/flips": 0.02}, n=200)
    file_floor(tmp_path, make_record, {"batch/flips": 0.01}, n=400)
    file_floor(tmp_path, make_record, {}, n=900)
    [answered] = [
        each
        for each in answer(comparable(ResultStore(root=tmp_path / "results").load()[0]))
        if each.group.task.name == "mmlu"
    ]
    assert answered.floor is not None
    assert answered.floor.flips == 0.01, "of 400 questions, not of 200"
    assert answered.floor.row.headline.n == 900


def test_few_questions_give_no_floor(
    make_record: MakeRecord, file_answers: File, tmp_path: Path
) -> None:
    file_loss(file_answers)
    file_floor(tmp_path, make_record, {"batch/flips": 0.05}, n=20)
    answered = answer(comparable(ResultStore(root=tmp_path / "results").load()[0]))
    [claim] = [c for each in answered for c in each.against_baseline.values()]
    assert isinstance(claim, Claim)
    assert claim.evidence.floor is None
