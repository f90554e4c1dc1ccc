"""The expected range of normal numbers, against the constants of quality control."""

import pytest

from harness.audit.checks.spread import expected_range


@pytest.mark.parametrize(("num", "expected"), [(2, 1.128), (5, 2.326), (12, 3.258)])
def test_expected_range_is_d2(num: int, expected: float) -> None:
    assert expected_range(num) == pytest.approx(expected, abs=5e-4)
