"""Differences of accuracies that their number of samples cannot support.

Tables that show an interval, an error or a p-value are left alone: they have their own evidence.
"""

import math
from collections.abc import Iterator

from harness.audit import flips
from harness.audit.derivation import Derivation, Step
from harness.audit.finding import Fault, Finding
from harness.audit.flips import Share
from harness.audit.quantity import Quantity
from harness.audit.sheet import Column, ColumnKind, Sheet
from harness.audit.study import Study
from harness.messages import plural
from harness.results import formatting as figures


def unsupported_gaps(study: Study) -> Iterator[Finding]:
    """Yield differences that cannot be significant, or only with few flips."""
    for sheet, found in study.derived():
        of_accuracy = found.source.kind is ColumnKind.ACCURACY and found.operation.is_difference
        steps = [each for each in found.steps if each.result and each.row not in sheet.means]
        if not of_accuracy or sheet.has_errors or not steps:
            continue
        total = study.count(sheet)
        if total is None:
            yield Finding(sheet.line, Fault.GAP, _unknown(found, steps))
            continue
        for step in steps:
            text = gap_words(*_shares(found, step), total, len(steps))
            if text is not None:
                name = sheet.name(step.row)
                yield Finding(
                    sheet.rows[step.row].line, Fault.GAP, f"{found.column.header} of {name}: {text}"
                )


def gap_words(first: Share, second: Share, total: int, num_tests: int = 1) -> str | None:
    """Return what a difference of two accuracies can show; None if it is significant in any case.

    Args:
        first: An accuracy.
        second: The accuracy that it is compared with.
        total: Number of samples.
        num_tests: How many comparisons the table makes.
    """
    fewest, net = flips.net_flips(first, second, total)
    if first.value == second.value or net == 0:
        return None
    limit = max(net, flips.possible_flips(first, second, total))
    if (flips.most_flips(max(fewest, 1), limit, num_tests) or 0) >= limit - 1:  # of one parity
        return None
    says = f"{100 * (first.value - second.value):+.2f} pp is a net {_counted(fewest, net)}"
    says += f" of {total:,}; "
    alone, corrected = (flips.most_flips(net, limit, num) for num in (1, num_tests))
    if alone is None:
        least = flips.fewest_net()
        return f"{says}{least_p(net)} (exact McNemar); fewer than {least} never reach 0.05"
    says += f"p < 0.05 only with {alone:,} flips or fewer in all (exact McNemar)"
    if num_tests > 1:
        few = "never" if corrected is None else f"with {corrected:,} or fewer"
        says += f", over {num_tests} comparisons {few} (Bonferroni)"
    return f"{says}; the table does not say how many answers flipped"


def least_p(net: int) -> str:
    """Return the smallest possible p-value of a net number of flips, in words."""
    p = flips.best_case(net)
    return "p is 1" if p >= 1 else f"p is {figures.p_value(p)} or more"


def _counted(fewest: int, most: int) -> str:
    """Return a number of flips; rounded accuracies of many samples leave it open."""
    if fewest == most:
        return f"{most} {plural('flip', most)}"
    return f"{fewest:,} to {most:,} flips"


def figures_of_points(share: float) -> str:
    """Return a share as percentage points."""
    return f"{100 * share:.2f} pp"


def share_of(column: Column, value: Quantity) -> Share:
    """Return a value of a column of accuracies as a share."""
    return Share(value.value * column.scale / 100, value.half * column.scale / 100)


def _shares(found: Derivation, step: Step) -> tuple[Share, Share]:
    return share_of(found.source, step.value), share_of(found.source, step.reference)


def _unknown(found: Derivation, steps: list[Step]) -> str:
    shares = (_shares(found, step) for step in steps)
    smallest = min(abs(first.value - second.value) for first, second in shares)
    needed = math.ceil(flips.fewest_net() / smallest - 1e-6)
    return (
        f"{found.column.header}: the number of samples is not said beside the table (--n gives it);"
        f" the smallest difference, {figures_of_points(smallest)}, can reach p < 0.05 only with "
        f"{needed:,} samples or more"
    )


def sheets_with_claims(study: Study) -> Iterator[tuple[Sheet, int]]:
    """Yield tables without errors that rank or compare accuracies, and their sample counts."""
    for sheet in study.sheets:
        found = study.derivations[sheet.line]
        compares = any(each.source.kind is ColumnKind.ACCURACY for each in found)
        is_ranked = sum(rank is not None for rank in sheet.ranks) > 1
        total = study.count(sheet)
        if sheet.accuracies and (compares or is_ranked) and not sheet.has_errors and total:
            yield sheet, total
