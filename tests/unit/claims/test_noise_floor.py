"""Differences up to the noise floor are not claimed: log-losses, divergences and answers."""

from collections.abc import Callable
from pathlib import Path

import builders
import numpy as np
import pytest
from studies import MakeRecord

from harness.claims.claim import Claim, answer
from harness.claims.grouping import comparable
from harness.claims.verdict import Verdict
from harness.results.record import Metric
from harness.results.store import ResultStore

File = Callable[..., Path]
RIGHT = np.arange(1000) % 4 == 0
TEXT = ("kl_mean", "ln_ppl_ratio")


def metric(name: str, value: float) -> Metric:
    return builders.metric(name, value, unit="fraction", n=500, n_of="question")


@pytest.mark.parametrize(("share", "verdict"), [(0.01, Verdict.WORSE), (0.05, Verdict.CANNOT_TELL)])
def test_a_loss_of_no_more_answers_than_flip_without_quantization_is_not_claimed(
    make_record: MakeRecord, file_answers: File, tmp_path: Path, share: float, verdict: Verdict
) -> None:
    worse: np.ndarray = RIGHT.copy()
    worse[np.flatnonzero(RIGHT)[:30]] = False  # 3 % of the answers, all in one direction
    file_answers(RIGHT)
    file_answers(worse, recipe="int4")
    flips = {"batch/flips": share, "attention/flips": share / 2}
    kl = {f"{variant}/{name}": 0.0 for variant in ("batch", "attention") for name in TEXT}
    floor = make_record(
        "none", task="noise_floor", metrics=tuple(metric(*each) for each in (kl | flips).items())
    )
    store = ResultStore(root=tmp_path / "results")
    store.write(store.path(floor, task="noise_floor", model="m", recipe="none"), floor)
    answered = answer(comparable(store.load()[0]))
    [claim] = [c for each in answered for c in each.against_baseline.values()]
    assert isinstance(claim, Claim)
    assert claim.evidence.floor == share
    assert claim.verdict is verdict
