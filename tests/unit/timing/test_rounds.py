"""The order of interleaved rounds, and what is kept from disturbing them."""

import gc
from contextlib import nullcontext

import pytest

from harness.timing import rounds
from harness.timing.rounds import interleaved, quiet, schedule


def test_every_round_measures_each_candidate_once() -> None:
    order = list(schedule(["base", "a", "b"], 10, 3))
    assert len(order) == 30
    for start in range(0, 30, 3):
        assert sorted(order[start : start + 3]) == ["a", "b", "base"]


def test_the_baseline_is_first_and_last() -> None:
    for seed in range(5):
        order = list(schedule(["base", "a", "b"], 10, seed))
        assert order[0] == order[-1] == "base", seed


def test_the_order_is_drawn_by_the_seed() -> None:
    orders = {tuple(schedule(["base", "a"], 10, seed)) for seed in range(20)}
    assert len(orders) > 10
    assert list(schedule(["base", "a"], 10, 7)) == list(schedule(["base", "a"], 10, 7))
    # Neither candidate always runs on what the other left in the caches.
    middle = list(schedule(["base", "a"], 200, 0))[2:-2]
    assert 60 < middle[::2].count("base") < 138


def test_measurements_go_to_their_candidate_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "quiet", nullcontext)  # a collection takes a while
    log: list[str] = []

    def measure(name: str) -> tuple[str, int]:
        log.append(name)
        return name, log.count(name)

    found = interleaved({name: lambda name=name: measure(name) for name in ("x", "y")}, 10, 0)
    assert found == {name: [(name, i) for i in range(1, 11)] for name in ("x", "y")}
    assert log == list(schedule(["x", "y"], 10, 0))


def test_garbage_collection_rests_while_rounds_run() -> None:
    assert gc.isenabled()
    seen = interleaved({"x": gc.isenabled}, 10, 0)["x"]
    assert not any(seen)
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


def test_garbage_collection_comes_back_after_an_error_and_only_if_it_was_on() -> None:
    with pytest.raises(KeyError), quiet():
        raise KeyError
    assert gc.isenabled()
    gc.disable()
    try:
        with quiet():
            assert gc.get_freeze_count() > 0
        assert not gc.isenabled()
    finally:
        gc.enable()
