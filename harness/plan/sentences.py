"""A plan in plain words: one line before a run, a page of `quant-harness plan`."""

import math
from collections.abc import Iterator

from harness.claims.measure import Measure
from harness.claims.sentences import size_in_words
from harness.messages import plural
from harness.plan.plan import Basis, Plan, Times, other_size
from harness.stats.difference import ALPHA

CHANCE = "with a chance of 80 %"
FAMILY = 12
"""Comparisons of a family that the page names beside one comparison."""
NO_BASIS = (
    "Which differences can be seen is not known: a recipe and its baseline are not on file for "
    "this task, model and data. Measure both on a few documents, at least five, and plan again."
)


def one_line(
    measure: Measure, num_items: int | None, basis: Basis | None, times: Times | None
) -> str | None:
    """Return what a run will be able to show, and how long it takes; None if neither is known."""
    parts = []
    if num_items is not None and basis is not None:
        shown = _shown(measure, basis, num_items)
        why = f"{'assuming that' if basis.is_assumed else 'on file:'} {basis.fact}"
        parts.append(f"{_counted(measure, num_items)} can show {shown} ({why})")
    if num_items is not None and times is not None:
        parts.append(f"{_time(times, num_items)}, {times.source}")
    return "; ".join(parts) or None


def page(plan: Plan) -> str:
    """Return the answer to `quant-harness plan`, with a line break at its end."""
    basis = plan.basis
    lines = [NO_BASIS] if basis is None else [*_differences(plan, basis)]
    family = [] if basis is None else [_of_a_family(plan, basis)]
    return "\n".join((plan.what, "", *lines, _times(plan), *family, ""))


def _differences(plan: Plan, basis: Basis) -> Iterator[str]:
    """Yield what a difference takes, what the samples can show, and why."""
    measure, samples = plan.measure, plan.samples
    needed, available = basis.expected.needed(plan.delta), samples.available
    beyond = needed is not None and available is not None and needed > available
    more = f", more than the {available:,} there are" if beyond else ""
    size = size_in_words(measure, plan.delta)
    yield f"To see a difference of {size} {CHANCE}: {_needed(plan, needed)}{more}."
    shown = _shown(measure, basis, samples.num_items)
    if available is None or samples.num_items == available:
        yield f"This run, {_with_windows(plan, samples.num_items)}, can show {shown}."
    else:
        part = f"{_with_windows(plan, samples.num_items)} of {available:,}"
        yield f"This run, {part}, can show {shown}."
        yield f"All {available:,} can show {_shown(measure, basis, available)}."
    if basis.is_assumed:
        yield f"This assumes that {basis.fact}; flip_rate=... assumes another share."
    else:
        yield f"This is by runs on file: {basis.fact}."
    rate = basis.expected.flip_rate
    if rate is not None and plan.delta > rate:
        yield f"A difference of {size} takes that share of flips at least: its number assumes it."


def _times(plan: Plan) -> str:
    """Return how long the run takes, and one with the samples that are needed, or with all."""
    sizes = {plan.samples.num_items: "this run"}
    other = other_size(plan.samples, plan.basis, plan.delta)
    if other is not None and other not in sizes:
        shown_size = other if other == plan.samples.available else _rounded(other)
        sizes[other] = _counted(plan.measure, shown_size)
    shown = (f"{_time(plan.times, size)} for {what}" for size, what in sizes.items())
    return f"Time here: {', '.join(shown)}; {plan.times.source}."


def _of_a_family(plan: Plan, basis: Basis) -> str:
    """Return what several comparisons take: at worst, Holm's method divides alpha by them all."""
    alpha = ALPHA / FAMILY
    needed = _needed(plan, basis.expected.needed(plan.delta, alpha))
    shown = _shown(plan.measure, basis, plan.samples.num_items, alpha)
    return (
        f"This is for one comparison at 5 %. Of {FAMILY}, corrected by Holm, each takes {needed} "
        f"at worst, and this run can show {shown}."
    )


def _shown(measure: Measure, basis: Basis, num_items: int, alpha: float = ALPHA) -> str:
    found = basis.expected.visible(num_items, alpha)
    if found is None:
        return "no difference: there are too few of them"
    return f"a difference of {size_in_words(measure, found)} or more"


def _needed(plan: Plan, num_items: int | None) -> str:
    if num_items is None:
        return "an unknown number"
    return f"about {_with_windows(plan, _rounded(num_items))}"


def _with_windows(plan: Plan, num_items: int) -> str:
    shown, of_window = _counted(plan.measure, num_items), plan.samples.items_per_window
    if of_window is None:
        return shown
    windows = math.ceil(num_items / of_window)
    return f"{shown} ({windows:,} {plural('window', windows)})"


def _counted(measure: Measure, num: int) -> str:
    return f"{num:,} {plural(measure.item, num)}"


def _rounded(num: int) -> int:
    """Return a number with three digits: it is an estimate."""
    return int(float(f"{num:.3g}"))


def _time(times: Times, num_items: int) -> str:
    bound = "about" if times.is_near(num_items) else "at most"
    return f"{bound} {duration(times.seconds_for(num_items))}"


def duration(seconds: float) -> str:
    """Return a time in two digits, such as `8 s`, `3 min` or `1.5 h`."""
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.2g} h"
