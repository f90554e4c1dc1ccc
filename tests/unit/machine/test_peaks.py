"""Peaks of the machine: who is asked, what is kept, and that answers are those of real work."""

import time

import pytest
import torch

from harness.machine import peaks as machine

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_known", {})


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What went to the child, whose answers grow by one each time and then shrink."""
    calls: list[list[str]] = []
    answers = iter([5.0, 7.0, 6.0])

    def ask(device: torch.device, questions: list[str]) -> dict[str, float]:
        calls.append(questions)
        answer = next(answers)
        return dict.fromkeys(questions, answer)

    monkeypatch.setattr(machine, "_ask", ask)
    return calls


def test_a_process_measures_once_and_only_what_is_missing(asked: list[list[str]]) -> None:
    assert machine.peaks(CPU, ["copy"]) == {"copy": 5.0}
    assert machine.peaks(CPU, ["copy", "product/int8"]) == {"copy": 5.0, "product/int8": 7.0}
    assert machine.peaks(CPU, ["product/int8", "copy"]) == {"copy": 5.0, "product/int8": 7.0}
    assert asked == [["copy"], ["product/int8"]]


def test_measured_again_the_better_answer_stays(asked: list[list[str]]) -> None:
    found = [machine.peaks(CPU, ["copy"], again=again)["copy"] for again in (False, True, True)]
    assert found == [5.0, 7.0, 7.0]


def test_sizes_that_are_read_have_a_floor_and_a_ceiling() -> None:
    assert machine.read_bandwidth(1000) == machine.read_bandwidth(2**20) == "read/16777216"
    assert machine.read_bandwidth(270_000_000) == "read/270000000"
    assert machine.read_bandwidth(2**40) == "read/1073741824"


def test_a_child_that_fails_says_why() -> None:
    with pytest.raises(RuntimeError, match="nothing"):
        machine.peaks(CPU, ["product/nothing"])


def test_a_child_answers_with_what_it_measured() -> None:
    found = machine.peaks(CPU, [machine.read_bandwidth(0)])
    # Slower than any memory of this century, faster than any cache of it.
    assert 1e8 < found[machine.read_bandwidth(0)] < 1e13


def test_a_rate_is_work_over_the_shortest_time(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses = iter([0.5, 0.3, 0.05, 0.3, 0.3, 0.3, 0.3])
    monkeypatch.setattr(machine, "BUDGET_S", 0.0)
    monkeypatch.setattr(
        machine, "_copies", lambda device, _: [(100.0, lambda: time.sleep(next(pauses)))]
    )
    # A sleep is never shorter than asked for. On a busy machine it is longer, but not by 0.2 s.
    assert 100 / 0.25 < machine.measure_peak(CPU, "copy") <= 100 / 0.05


def test_matmuls_of_every_type_run_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "BUDGET_S", 0.0)
    monkeypatch.setitem(machine.SIDES, "cpu", (64,))
    for dtype in machine.MATMUL_TYPES:
        if "float8" not in dtype:
            assert machine.measure_peak(CPU, machine.matmul(dtype)) > 1e6, dtype


def test_an_integer_matmul_is_that_of_its_codes() -> None:
    run = machine._square(CPU, torch.int8, 32)
    drawn = torch.randn(32, 32, generator=torch.Generator().manual_seed(0))
    codes = (drawn * 32).clamp(-127, 127).to(torch.int8).long()
    assert torch.equal(run().long(), codes @ codes.T)
