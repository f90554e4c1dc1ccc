"""The checks, one kind of fault a file. Each is a function from a study to findings."""

from collections.abc import Callable, Iterator

from harness.audit.checks import (
    baselines,
    bf16_grid,
    deltas,
    gaps,
    granularity,
    means,
    missing,
    order,
    pairs,
    prose,
    prose_gaps,
    replication,
    resolution,
    shares,
    spread,
    units,
)
from harness.audit.finding import Finding
from harness.audit.study import Study

CHECKS: tuple[Callable[[Study], Iterator[Finding]], ...] = tuple(
    module.check
    for module in (
        means, deltas, shares, units, order, baselines, missing, bf16_grid, gaps, resolution,
        spread, pairs, granularity, replication, prose, prose_gaps,
    )
)  # fmt: skip
