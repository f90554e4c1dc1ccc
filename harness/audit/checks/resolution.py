"""Accuracies without an interval: what their number of samples can resolve."""

from collections.abc import Iterator

from harness.audit import flips
from harness.audit.checks.gaps import sheets_with_claims
from harness.audit.finding import Fault, Finding
from harness.audit.sheet import ColumnKind, Sheet
from harness.audit.study import Study
from harness.stats import wilson

_FLIPS = (0.02, 0.05, 0.10)


def missing_intervals(study: Study) -> Iterator[Finding]:
    """Yield tables that compare accuracies and show no interval."""
    for sheet, total in sheets_with_claims(study):
        column = sheet.accuracies[0]
        rows = sheet.baselines or sheet.filled(column)
        value = next((q for row in rows if (q := column.quantities[row]) is not None), None)
        if value is not None:
            share = value.value * column.scale / 100
            text = _resolution(value.text, share, total, _num_tests(study, sheet))
            yield Finding(sheet.line, Fault.NO_INTERVAL, f"{column.header}: {text}")


def _resolution(shown: str, share: float, total: int, num_tests: int) -> str:
    """Return the errors of an accuracy and of a difference, and what a test can see."""
    low, high = wilson(round(share * total), total)
    error = flips.unpaired_error(share, share, total)
    paired = [flips.visible(flips.paired_error(each, total)) for each in _FLIPS]
    sizes = " / ".join(f"{100 * each:.2f}" for each in paired)
    shares = " / ".join(f"{100 * each:.0f}" for each in _FLIPS)
    least = flips.fewest_net(num_tests)
    family = f", {least} if it is one of {num_tests} (Bonferroni, Holm's first step)"
    return (
        f"{shown} of {total:,} samples has a standard error of "
        f"{100 * flips.single_error(share, total):.2f} pp and the 95 % interval {100 * low:.1f} .. "
        f"{100 * high:.1f} %; a difference of two has the unpaired standard error "
        f"{100 * error:.2f} pp. A test sees a difference with a chance of 80 % from "
        f"{100 * flips.visible(error):.2f} pp on if unpaired, from {sizes} pp on if paired with "
        f"{shares} % flips. A significant difference takes {flips.fewest_net()} net flips"
        f"{family if num_tests > 1 else ''}"
    )


def _num_tests(study: Study, sheet: Sheet) -> int:
    """Return how many differences of accuracies the largest column of differences has."""
    found = (
        sum(step.result != 0 and step.row not in sheet.means for step in each.steps)
        for each in study.derivations[sheet.line]
        if each.source.kind is ColumnKind.ACCURACY
    )
    return max((1, *found))
