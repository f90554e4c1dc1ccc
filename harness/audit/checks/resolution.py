"""Accuracies without an interval: what their number of samples can resolve."""

from collections.abc import Iterator

from harness.audit import flips
from harness.audit.checks.gaps import sheets_with_claims
from harness.audit.finding import Finding
from harness.audit.study import Study
from harness.stats import wilson

CHECK = "no interval"
_FLIPS = (0.02, 0.05, 0.10)


def check(study: Study) -> Iterator[Finding]:
    """Yield tables that compare accuracies and show no interval."""
    for sheet, total in sheets_with_claims(study):
        column = sheet.accuracies[0]
        rows = sheet.baselines or sheet.filled(column)
        value = next((q for row in rows if (q := column.quantities[row]) is not None), None)
        if value is None:
            continue
        share = value.value * column.scale / 100
        ends = wilson(round(share * total), total)
        error = flips.unpaired_error(share, share, total)
        paired = ", ".join(
            f"{100 * flips.visible(flips.paired_error(each, total)):.2f} pp at {each:.0%} flips"
            for each in _FLIPS
        )
        yield Finding(
            sheet.line,
            CHECK,
            f"{column.header}: {value.text} of {total:,} samples has the 95 % interval "
            f"{100 * ends.low:.1f} .. {100 * ends.high:.1f} %, a difference of two such accuracies "
            f"the unpaired standard error {100 * error:.2f} pp. With a chance of 80 % a test shows "
            f"differences from {100 * flips.visible(error):.2f} pp on unpaired, paired from {paired}",
        )
