"""Two engines on the same requests, and what a loaded model keeps of its baseline."""

import numpy as np
import pytest
import torch
from builders import fixed_text, prose
from recipe_builders import int8_row_recipe
from scipy import special
from scipy import stats as scipy_stats
from table_engine import Table

from harness.engines.local import compare as compare_module
from harness.engines.local import split_model
from harness.engines.local.engine import LocalEngine
from harness.engines.requests import Score
from harness.errors import UnsupportedEngine
from harness.models.loaded import LoadedModel
from harness.models.sources.tiny import TinyModel
from harness.recipe import quantize
from harness.tasks.divergence.compare import compare
from harness.tasks.divergence.divergence import Divergence
from harness.tasks.windows import disjoint_windows

CPU = torch.device("cpu")


@pytest.fixture
def fresh() -> LoadedModel:
    """A model that no other test has kept anything with."""
    return TinyModel().load(CPU)


def divergence(text: str, window: int = 100) -> Divergence:
    return Divergence(data=fixed_text(text), window=window)


def log_probs(loaded: LoadedModel, request: Score) -> np.ndarray:
    """Return float64 log-probabilities `[T, V]` before each token of the continuation."""
    ids = torch.tensor([[*request.context, *request.continuation]])
    with torch.no_grad():
        logits = loaded.module(ids).logits[0, len(request.context) - 1 : -1]
    return special.log_softmax(logits.double().numpy(), axis=-1)


@pytest.mark.parametrize("chunk", [1, 7, 10**6])
def test_continuation_alone_is_compared(
    fresh: LoadedModel, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setitem(split_model.CHUNK_BYTES, "cpu", 4 * 261 * chunk)
    requests = [Score((1, 2, 3), tuple(range(4, 30))), Score((9,), (8,)), Score((5, 6), (7, 8))]
    other = TinyModel(seed=1).load(CPU)
    found = list(LocalEngine(fresh).compare(LocalEngine(other), requests))
    assert [index for index, _ in found] == [0, 1, 2]
    for request, (_, each) in zip(requests, found, strict=True):
        q, p = log_probs(fresh, request), log_probs(other, request)
        picked = np.arange(len(request.continuation)), list(request.continuation)
        assert each.nll == pytest.approx(-q[picked], rel=1e-5)
        assert each.nll_baseline == pytest.approx(-p[picked], rel=1e-5)
        kl = scipy_stats.entropy(np.exp(p), np.exp(q), axis=-1)
        assert each.kl == pytest.approx(kl, rel=1e-4)
        assert each.same_top.tolist() == (q.argmax(-1) == p.argmax(-1)).tolist()


def test_engine_of_another_kind_is_refused(tiny: LoadedModel) -> None:
    with pytest.raises(UnsupportedEngine, match="compares with an engine local, got table"):
        LocalEngine(tiny).compare(Table(np.zeros(261)), [])


def test_changed_sides_change_kl_and_turn_the_rest_round(fresh: LoadedModel) -> None:
    quantize(fresh, int8_row_recipe())
    candidate = LocalEngine(fresh)
    base = candidate.baseline("divergence").engine
    requests = disjoint_windows(fixed_text(prose(300)).text(), candidate, 100, None).requests()
    there = compare(candidate, base, requests, "there")
    back = compare(base, candidate, requests, "back")
    # The states of the recipe, the baseline of `back`, are not kept as those of the baseline.
    assert len(fresh.kept["baseline hidden states"]) == len(requests)
    assert np.array_equal(compare(candidate, base, requests, "again").kl, there.kl)
    assert np.array_equal(there.nll, back.nll_baseline)
    assert np.array_equal(there.nll_baseline, back.nll)
    assert np.array_equal(there.delta_p, -back.delta_p)
    assert np.array_equal(there.same_top, back.same_top)
    assert abs(there.kl.mean() / back.kl.mean() - 1) > 1e-3


def count_windows(monkeypatch: pytest.MonkeyPatch, loaded: LoadedModel) -> list[bool]:
    """Return a list that gets an entry for each window that the body runs: whether in float."""
    body, seen = loaded.module.base_model, []

    def forward(*args: object, **kwargs: object) -> object:
        seen.append(loaded.is_float)
        return type(body).forward(body, *args, **kwargs)

    monkeypatch.setattr(body, "forward", forward)
    return seen


# A window of 100 hidden states of 48 float32 numbers is 19,200 bytes.
@pytest.mark.parametrize(("budget", "repeated"), [(2**30, 0), (2 * 19_200, 1), (19_199, 3), (0, 3)])
def test_baseline_is_run_once_a_sweep_as_far_as_there_is_room(
    monkeypatch: pytest.MonkeyPatch, fresh: LoadedModel, budget: int, repeated: int
) -> None:
    monkeypatch.setattr(compare_module, "KEPT_BYTES", budget)
    task = divergence(prose(300))
    task.run(LocalEngine(fresh))
    quantize(
        fresh, int8_row_recipe(skip=("embed_tokens", "lm_head"))
    )  # runs the model once to find its weights
    seen = count_windows(monkeypatch, fresh)
    second = task.run(LocalEngine(fresh))
    assert seen.count(False) == 3
    assert seen.count(True) == repeated
    alone = TinyModel().load(CPU)
    quantize(alone, int8_row_recipe(skip=("embed_tokens", "lm_head")))
    assert second == task.run(LocalEngine(alone))


def test_budget_is_for_all_tasks_of_a_sweep(
    monkeypatch: pytest.MonkeyPatch, fresh: LoadedModel
) -> None:
    monkeypatch.setattr(compare_module, "KEPT_BYTES", 4 * 19_200)
    for window in (100, 50, 60):
        divergence(prose(300), window).run(LocalEngine(fresh))
    held = fresh.kept["baseline hidden states"]
    assert sum(states.nbytes for states in held.values()) <= 4 * 19_200
    assert {states.shape[0] for states in held.values()} == {100, 50}


def test_what_was_kept_serves_only_the_same_tokens_windows_and_kernel(fresh: LoadedModel) -> None:
    others = [
        divergence(prose(300)),
        divergence(prose(300), window=60),
        divergence(prose(700)[300:600]),
    ]
    for task in others:
        assert task.run(LocalEngine(fresh)) == task.run(LocalEngine(TinyModel().load(CPU)))
    count = len(fresh.kept["baseline hidden states"])
    assert count == 3 + 5 + 3
    fresh.module.set_attn_implementation("eager")
    others[0].run(LocalEngine(fresh))
    assert len(fresh.kept["baseline hidden states"]) == count + 3
