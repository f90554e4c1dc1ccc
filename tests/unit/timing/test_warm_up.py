"""Warm-up against times of known shape."""

from collections.abc import Iterator
from itertools import chain, count, repeat

from harness.timing.warm_up import MOST_RUNS, MOST_S, TOLERANCE, is_steady, warm_up


def test_steady_times_end_as_soon_as_two_windows_are_there() -> None:
    found = warm_up(lambda: 0.1)
    assert found.steady
    assert len(found.seconds) == 6


def test_slow_first_runs_are_waited_for() -> None:
    times: Iterator[float] = chain([9.0, 5.0, 3.0, 2.0, 1.5, 1.2], repeat(1.0))
    found = warm_up(lambda: next(times))
    assert found.steady
    assert found.seconds[:2] == (9.0, 5.0)
    assert found.seconds[-3:] == (1.0, 1.0, 1.0)


def test_one_late_run_does_not_undo_a_median() -> None:
    assert is_steady([1.0, 1.0, 1.0, 1.0, 7.0, 1.0])


def test_a_change_above_the_tolerance_is_not_steady() -> None:
    assert not is_steady([1.0] * 3 + [1.0 + 1.1 * TOLERANCE] * 3)
    assert not is_steady([1.0] * 3 + [1.0 - 1.1 * TOLERANCE] * 3)
    assert is_steady([1.0] * 3 + [1.0 + 0.9 * TOLERANCE] * 3)


def test_times_that_never_settle_are_capped_and_said_so() -> None:
    times = count(start=1)
    found = warm_up(lambda: next(times) * 1e-3)
    assert not found.steady
    assert len(found.seconds) == MOST_RUNS


def test_long_runs_are_capped_by_time() -> None:
    found = warm_up(lambda: MOST_S / 1.5)
    assert not found.steady
    assert len(found.seconds) == 2
