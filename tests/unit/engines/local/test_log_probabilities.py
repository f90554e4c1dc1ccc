"""Log-probabilities on file against a plain loop over the float32 logits that the model gave."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from repository import ROOT

from harness.data.embedded import EmbeddedData
from harness.engines.local.engine import LocalEngine
from harness.engines.local.split_model import SplitModel
from harness.models.loaded import LoadedModel
from harness.results.record import SampleScore
from harness.results.store import Stored, read, read_samples, samples_frame
from harness.tasks.divergence.divergence import Divergence
from harness.tasks.divergence.noise_floor import NoiseFloor
from harness.tasks.mmlu.direct import Direct
from harness.tasks.mmlu.generate import Generate
from harness.tasks.mmlu.mmlu import MMLU
from harness.tasks.parity.parity import Parity
from harness.tasks.perplexity.perplexity import Perplexity

DATA = EmbeddedData()
L = 48
LIMITS: dict[str, Any] = {"window": L, "limit_windows": 2}
PUBLISHED = sorted((ROOT / "results" / "published").glob("*/*/*/*.json"))
VERSIONS = {
    task.name: task.version
    for task in (
        Perplexity(data=DATA),
        Divergence(data=DATA),
        NoiseFloor(data=DATA),
        Parity(data=DATA),
        MMLU(data=DATA, answer=Direct()),
    )
}
"""Of the tasks whose numbers are made of log-probabilities."""
WITHIN = 1e-7
"""What a reader of a samples file is promised [nat]."""


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """Logits in the order in which the model gave them."""
    seen: list[torch.Tensor] = []
    plain = SplitModel.logits

    def listen(model: SplitModel, hidden: torch.Tensor) -> torch.Tensor:
        seen.append(plain(model, hidden))
        return seen[-1]

    monkeypatch.setattr(SplitModel, "logits", listen)
    return seen


def log_p(logits_V: torch.Tensor) -> np.ndarray:
    """Log-probabilities in float64, one token after the other, with an exact sum."""
    assert logits_V.dtype is torch.float32
    row = logits_V.tolist()
    total = math.log(math.fsum(math.exp(x - max(row)) for x in row))
    return np.array([x - max(row) - total for x in row])


def losses(windows: Sequence[torch.Tensor], loaded: LoadedModel) -> list[list[float]]:
    """Return -ln p of all tokens but the first of each window, given its logits `[L - 1, V]`."""
    ids = loaded.tokenizer(DATA.text().text)["input_ids"]
    return [
        [-float(log_p(logits[place])[ids[L * index + place + 1]]) for place in range(len(logits))]
        for index, logits in enumerate(windows)
    ]


def on_file(samples: Sequence[SampleScore]) -> pd.DataFrame:
    """The table that is written."""
    return samples_frame(samples)


def largest_error(samples: Sequence[SampleScore], expected: list[list[float]]) -> float:
    """Of the token NLLs of a samples file."""
    rows = zip(on_file(samples)["token_nll"], expected, strict=True)
    return max(float(np.abs(found - row).max()) for found, row in rows)


def of_windows(given: list[torch.Tensor]) -> list[torch.Tensor]:
    """Return the logits of whole windows, without those of the check that `split` makes."""
    return [logits for logits in given if len(logits) == L - 1]


def test_perplexity(tiny: LoadedModel, given: list[torch.Tensor]) -> None:
    result = Perplexity(data=DATA, **LIMITS).run(LocalEngine(tiny, batch_tokens=L))
    expected = losses(of_windows(given), tiny)
    assert largest_error(result.samples, expected) < WITHIN
    exact = math.exp(math.fsum(map(math.fsum, expected)) / (2 * (L - 1)))
    figures = {metric.name: metric.value for metric in result.metrics}
    assert figures["perplexity"] == pytest.approx(exact, rel=1e-12)
    filed = np.concatenate(on_file(result.samples)["token_nll"].tolist())
    assert math.exp(filed.mean()) == pytest.approx(exact, rel=1e-8)


def test_divergence_and_equal_models(tiny: LoadedModel, given: list[torch.Tensor]) -> None:
    result = Divergence(data=DATA, **LIMITS).run(LocalEngine(tiny))
    expected = losses(of_windows(given)[::2], tiny)  # each window's candidate before its baseline
    assert largest_error(result.samples, expected) < WITHIN
    for sample, row in zip(result.samples, expected, strict=True):
        assert sample.scores["nll"] == pytest.approx(math.fsum(row), rel=1e-12)
        assert sample.scores["nll_baseline"] == sample.scores["nll"]
        assert sample.scores["kl"] == 0.0
        assert sample.scores["delta_p_squared"] == 0.0
        assert sample.scores["same_top"] == L - 1


def test_noise_floor(tiny: LoadedModel, given: list[torch.Tensor]) -> None:
    result = NoiseFloor(data=DATA, **LIMITS).run(LocalEngine(tiny))
    expected = losses(of_windows(given)[1:4:2], tiny)
    assert largest_error(result.samples, expected) < WITHIN


def test_parity_of_equal_models(tiny: LoadedModel) -> None:
    head = tiny.module.lm_head
    tiny.swap_parameter(
        head, "weight", head.weight.detach().clone()
    )  # a recipe that changes nothing
    task = Parity(data=DATA, decode=3, window=L, limit_windows=2)
    reference = task.reference(LocalEngine(tiny))
    result = task.run_beside(LocalEngine(tiny), reference, {})
    assert (
        largest_error(result.samples, losses([kept.logits for kept in reference.fake], tiny))
        < WITHIN
    )
    figures = {metric.name: metric.value for metric in result.metrics}
    for name in ("logprob_difference", "logprob_difference_max", "kl", "float_kl_real"):
        assert figures[name] == 0.0


def test_letters_of_a_question(tiny: LoadedModel, given: list[torch.Tensor]) -> None:
    result = MMLU(data=DATA, answer=Direct(), limit=1).run(LocalEngine(tiny))
    [logits_V] = given[-1]
    for letter in "ABCD":
        [token] = tiny.tokenizer(f" {letter}")["input_ids"]
        found = result.samples[0].scores[f"log_prob_{letter}"]
        assert found == pytest.approx(float(log_p(logits_V)[token]), rel=1e-13)


def test_a_task_whose_log_probabilities_were_float32_has_another_version_and_protocol() -> None:
    """Records of then are read, and neither found on file nor compared with those of now."""
    published = [read(path) for path in PUBLISHED]
    of_then = [r for r in published if r.task and "fp32" in r.task.protocol and r.metrics]
    old = [r for r in of_then if r.task.name in VERSIONS]
    assert {record.task.name for record in old} == set(VERSIONS)
    assert all(record.task.version == 1 < VERSIONS[record.task.name] for record in old)
    assert MMLU(data=DATA, answer=Generate()).version == 1, "decoding is as it was"


def test_a_rule_without_a_version_is_version_1() -> None:
    assert MMLU(data=DATA, answer=object()).version == 1  # type: ignore[arg-type]


def test_samples_of_then_are_read() -> None:
    path = next(path for path in PUBLISHED if "/perplexity/" in str(path))
    record = read(path)
    frame = read_samples(Stored(path=path, record=record))
    assert frame["token_nll"][0].dtype == np.float32
    assert float(frame["token_nll"][0].sum(dtype=float)) == pytest.approx(frame["nll"][0])
