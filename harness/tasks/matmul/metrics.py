"""Means of the errors over the draws of one case.

    sqnr  = mean of -20 log10(rel_error)            [dB]
    ratio = exp(mean of ln(error a / error b))      paired: both formats round the same numbers

The mean of a ratio is geometric, so that the mean of a / b is the inverse of the mean of b / a.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from harness import stats
from harness.results.record import Metric, Unit

OPERANDS = ("both", "weights", "inputs")
"""Which operands are rounded."""
REL_ERRORS = tuple(f"rel_error/{operands}" for operands in OPERANDS)
MAX_ERRORS = tuple(f"max_error/{operands}" for operands in OPERANDS)
ELEMENT = "element_error"

Scores = Mapping[str, Sequence[float]]
"""`<measure>/<format>` -> its value in every draw."""


def case_metrics(
    case: str, scores: Scores, formats: Iterable[str], ratios: Iterable[tuple[str, str]]
) -> Iterator[Metric]:
    """Yield the means of one case.

    They are named `<measure>/<case>/<format>` and `ratio/<measure>/<case>/<a>/<b>`.
    """
    for name in formats:
        for measure in (*REL_ERRORS, *MAX_ERRORS, ELEMENT):
            errors = scores[f"{measure}/{name}"]
            yield _mean(f"{measure}/{case}/{name}", errors, Unit.ONE, higher_is_better=False)
        for operands, measure in zip(OPERANDS, REL_ERRORS, strict=True):
            decibels = [-20 * log / math.log(10) for log in _logs(scores[f"{measure}/{name}"])]
            yield _mean(f"sqnr/{operands}/{case}/{name}", decibels, Unit.DB, higher_is_better=True)
    for above, below in ratios:
        for measure in (*REL_ERRORS, ELEMENT):
            pairs = zip(
                _logs(scores[f"{measure}/{above}"]),
                _logs(scores[f"{measure}/{below}"]),
                strict=True,
            )
            yield _mean(
                f"ratio/{measure}/{case}/{above}/{below}",
                [a - b for a, b in pairs],
                Unit.ONE,
                higher_is_better=None,
                finish=math.exp,
            )


def _logs(errors: Sequence[float]) -> list[float]:
    return [math.log(error) if error else -math.inf for error in errors]


def _mean(
    name: str,
    values: Sequence[float],
    unit: Unit,
    *,
    higher_is_better: bool | None,
    finish: Callable[[float], float] = float,
) -> Metric:
    """Return `finish` of the mean over draws; null if an error of 0 makes a logarithm infinite."""
    whole = all(math.isfinite(value) for value in values)
    interval = stats.mean_interval(values) if whole else None
    note = None
    if not whole:
        note = "no value: some error is exactly 0"
    elif interval is None:
        note = f"no interval from fewer than {stats.MIN_CLUSTERS} draws"
    return Metric(
        name=name,
        value=finish(math.fsum(values) / len(values)) if whole else None,
        unit=unit,
        n=len(values),
        n_of="draw",
        ci95=interval and (finish(interval.low), finish(interval.high)),
        higher_is_better=higher_is_better,
        note=note,
    )
