"""How numbers are written."""

from harness.results.formatting import si


def test_numbers_with_a_prefix_have_three_digits() -> None:
    expected = {0.5: "0.5 ", 999.4: "999 ", 999.6: "1 k", 269e6: "269 M", 1.2345e12: "1.23 T"}
    assert {value: si(value) for value in expected} == expected
