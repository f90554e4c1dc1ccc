"""The tables of a report, one table a file: a function that returns a `Section`, or None.

By task: `ranking` for every task without a table of its own, `divergence` and `answers`, `noise`,
`parity`, `throughput`, `matmul`, `engines`. Over the recipes of a group: `quality`, `granularity`,
`group_sizes`, `mmlu`, `subjects`. Over the report: `sizes`, `calibration`, `left_out`,
`unfinished`, `warnings`, `records`. `differences` makes the cells of a paired difference.
`harness.report.contents` calls the functions in the order of the report.
"""

from harness.report.sections.section import Section

__all__ = ["Section"]
