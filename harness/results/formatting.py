"""How numbers are written. Fractions appear as % and their differences as pp, never one for the other."""

from harness.messages import plural
from harness.results.record import Metric, QuantReport, Unit

MISSING = "-"
NO_INTERVAL = "no interval"
"""How the note of a metric begins that says why it has none."""


def number(metric: Metric | None) -> str:
    """Return a metric's value; a fraction as a percentage."""
    if metric is None or metric.value is None:
        return MISSING
    return _value(metric.value, metric.unit)


def interval(metric: Metric) -> str:
    """Return a metric's 95 % interval."""
    if metric.ci95 is None:
        return MISSING
    low, high = (_value(bound, metric.unit) for bound in metric.ci95)
    return f"{low} .. {high}"


def spelled(metric: Metric | None, spec: str) -> str:
    """Return a metric's value as a format specification of Python says, such as `.3g`."""
    return MISSING if metric is None or metric.value is None else f"{metric.value:{spec}}"


def ends(found: tuple[float, float] | None, spec: str) -> str:
    """Return both ends of an interval as a format specification of Python says, such as `+.5f`."""
    return MISSING if found is None else " .. ".join(f"{end:{spec}}" for end in found)


def count(metric: Metric) -> str:
    """Return n and what it counts."""
    return f"{metric.n:,} {plural(metric.n_of, metric.n)}"


def difference(value: float, reference: float, unit: Unit) -> str:
    """Return `value - reference` with its sign, in pp for fractions."""
    if unit is Unit.FRACTION:
        return f"{100 * (value - reference):+.2f} pp"
    return f"{value - reference:+.4f}"


def relative(value: float, reference: float) -> str:
    """Return the relative difference, in percent of the reference; nothing is a percentage of 0."""
    if reference == 0:
        return MISSING
    return f"{100 * (value / reference - 1):+.3f} %"


def p_value(p: float) -> str:
    """Return a p-value with two digits."""
    return f"{p:.2g}"


def share(fraction: float) -> str:
    """Return a fraction as a percentage."""
    return f"{100 * fraction:.2f} %"


def megabytes(size: int) -> str:
    """Return a size in units of 10^6 bytes."""
    return f"{size / 1e6:,.2f} MB"


def plain(value: float) -> str:
    """Return a value with four decimals, or three digits if it is small."""
    return f"{value:.4f}" if abs(value) >= 0.01 or value == 0 else f"{value:.3g}"


def _value(value: float, unit: Unit) -> str:
    return f"{100 * value:.2f} %" if unit is Unit.FRACTION else plain(value)


def count_of(metric: Metric | None) -> str:
    """Return a metric that is a count."""
    return MISSING if metric is None or metric.value is None else f"{metric.value:.0f}"


def path(quant: QuantReport) -> str:
    """Return `none` (float), `fake-quant`, or `real` with the backend and its measured precision."""
    if quant.kind != "real":
        return quant.kind
    compute = quant.compute
    exact = (
        f", {compute.dtype or 'less than bfloat16'} ({compute.rel_error:.0e})" if compute else ""
    )
    return f"real/{quant.backend}{exact}"


def rate(value: float) -> str:
    """Return a speed or a ratio with at least three digits, and no more decimals than these need."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"


def milliseconds(metric: Metric | None) -> str:
    """Return a metric that is a time in seconds."""
    return MISSING if metric is None or metric.value is None else rate(1000 * metric.value)


def in_words(metric: Metric | None) -> str:
    """Return a metric with its interval and n, in one line."""
    if metric is None or metric.value is None:
        return "no value"
    text = f"{metric.name} {plain(metric.value)}"
    if metric.ci95 is not None:
        text += f" [{', '.join(map(plain, metric.ci95))}]"
    text += f", n = {metric.n} {plural(metric.n_of, metric.n)}"
    why = next(
        (each for each in (metric.note or "").split("; ") if each.startswith(NO_INTERVAL)), ""
    )
    return f"{text} ({why})" if why else text


def si(value: float) -> str:
    """Return a number with three digits and an SI prefix, such as `269 M`."""
    for prefix in ("", "k", "M", "G", "T"):
        if abs(value) < 999.5:
            return f"{value:.3g} {prefix}"
        value /= 1000
    return f"{value:.3g} P"
