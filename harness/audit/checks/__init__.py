"""The checks, one kind of fault a file. Each is a function from a study to findings."""

from collections.abc import Callable, Iterator

from harness.audit.checks.baselines import baselines
from harness.audit.checks.bf16_grid import bf16_values
from harness.audit.checks.deltas import differences
from harness.audit.checks.gaps import unsupported_gaps
from harness.audit.checks.granularity import granularity_trends
from harness.audit.checks.means import means
from harness.audit.checks.missing import missing_baselines
from harness.audit.checks.order import orders
from harness.audit.checks.pairs import compared_columns
from harness.audit.checks.prose import contradictions
from harness.audit.checks.prose_gaps import stated_gaps
from harness.audit.checks.replication import replications
from harness.audit.checks.resolution import missing_intervals
from harness.audit.checks.shares import percentages
from harness.audit.checks.spread import spreads
from harness.audit.checks.units import units
from harness.audit.finding import Finding
from harness.audit.study import Study

CHECKS: tuple[Callable[[Study], Iterator[Finding]], ...] = (
    means,
    differences,
    percentages,
    units,
    orders,
    baselines,
    missing_baselines,
    bf16_values,
    unsupported_gaps,
    missing_intervals,
    spreads,
    compared_columns,
    granularity_trends,
    replications,
    contradictions,
    stated_gaps,
)
"""In the order of `docs/audit.md`."""
