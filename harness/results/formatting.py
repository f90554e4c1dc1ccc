"""How numbers are written. A fraction is a percentage, a difference of fractions percentage points.

`show` and `show_interval` write a metric in a style of `STYLES`, or in the style of its unit. A
metric that is missing or has no value is `-`.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal

from harness.messages import plural
from harness.results.record import Metric, QuantReport, Unit

MISSING = "-"
NO_INTERVAL = "no interval"
"""How the note of a metric begins that says why it has none."""

Style = Literal[
    "plain",
    "count",
    "rate",
    "ms",
    "MB",
    "2 decimals %",
    "1 decimal %",
    "signed %",
    "relative",
    "pp",
    "signed",
    "3 decimals",
    "3 digits",
    "4 digits",
    "exponent",
    "signed exponent",
]


def plain(value: float) -> str:
    """Return a value with four decimals, or three digits if it is small."""
    return f"{value:.4f}" if abs(value) >= 0.01 or value == 0 else f"{value:.3g}"


def rate(value: float) -> str:
    """Return a speed or a ratio with at least three digits, and no more decimals than needed."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"


def share(fraction: float) -> str:
    """Return a fraction as a percentage."""
    return f"{100 * fraction:.2f} %"


def megabytes(size: int) -> str:
    """Return a size in units of 10^6 bytes."""
    return f"{size / 1e6:,.2f} MB"


STYLES: Mapping[Style, Callable[[float], str]] = MappingProxyType(
    {
        "plain": plain,
        "count": "{:.0f}".format,
        "rate": rate,
        "ms": lambda seconds: rate(1000 * seconds),
        "MB": lambda size: megabytes(int(size)),
        "2 decimals %": share,
        "1 decimal %": lambda fraction: f"{100 * fraction:.1f} %",
        "signed %": lambda fraction: f"{100 * fraction:+.1f} %",
        "relative": lambda fraction: f"{100 * fraction:+.3f} %",
        "pp": lambda fraction: f"{100 * fraction:+.2f} pp",
        "signed": "{:+.5f}".format,
        "3 decimals": "{:.3f}".format,
        "3 digits": "{:.3g}".format,
        "4 digits": "{:.4g}".format,
        "exponent": "{:.2e}".format,
        "signed exponent": "{:+.2e}".format,
    }
)


def show(metric: Metric | None, style: Style | None = None) -> str:
    """Return the value of a metric.

    Args:
        metric: The metric of a run, or None for a run that lacks it.
        style: A key of `STYLES`; by default a percentage for fractions, else `plain`.
    """
    if metric is None or metric.value is None:
        return MISSING
    return _writer(metric, style)(metric.value)


def show_interval(metric: Metric | None, style: Style | None = None) -> str:
    """Return the 95 % interval of a metric as `low .. high`; see `show` for the arguments."""
    if metric is None or metric.ci95 is None:
        return MISSING
    return " .. ".join(map(_writer(metric, style), metric.ci95))


def show_with_interval(metric: Metric | None, style: Style) -> str:
    """Return a metric as `value [low, high]`, or the value alone if there is no interval."""
    if metric is None or metric.value is None or metric.ci95 is None:
        return show(metric, style)
    return f"{show(metric, style)} [{', '.join(map(STYLES[style], metric.ci95))}]"


def show_bounds(bounds: tuple[float, float] | None, style: Style) -> str:
    """Return the ends of an interval as `low .. high`."""
    return MISSING if bounds is None else " .. ".join(map(STYLES[style], bounds))


def _writer(metric: Metric, style: Style | None) -> Callable[[float], str]:
    return STYLES[style or ("2 decimals %" if metric.unit is Unit.FRACTION else "plain")]


def count(metric: Metric) -> str:
    """Return n and what it counts, such as `63 tokens`."""
    return f"{metric.n:,} {plural(metric.n_of, metric.n)}"


def difference(value: float, reference: float, unit: Unit) -> str:
    """Return `value - reference` with its sign, in pp for fractions."""
    change = value - reference
    return STYLES["pp"](change) if unit is Unit.FRACTION else f"{change:+.4f}"


def relative(value: float, reference: float) -> str:
    """Return the relative difference in percent of the reference; `-` for a reference of 0."""
    return MISSING if reference == 0 else STYLES["relative"](value / reference - 1)


def p_value(p: float) -> str:
    """Return a p-value with two digits."""
    return f"{p:.2g}"


def path(quant: QuantReport) -> str:
    """Return `none` (unquantized), `fake-quant`, or `real/` with the backend and its precision."""
    if quant.kind != "real":
        return quant.kind
    compute = quant.compute
    exact = (
        f", {compute.dtype or 'less than bfloat16'} ({compute.rel_error:.0e})" if compute else ""
    )
    return f"real/{quant.backend}{exact}"


def one_line(metric: Metric | None) -> str:
    """Return name, value, interval and n of a metric in one line, such as a terminal shows."""
    if metric is None or metric.value is None:
        return "no value"
    shown = show_with_interval(metric, "plain")
    text = f"{metric.name} {shown}, n = {metric.n} {plural(metric.n_of, metric.n)}"
    parts = (metric.note or "").split("; ")
    why = next((part for part in parts if part.startswith(NO_INTERVAL)), "")
    return f"{text} ({why})" if why else text


def si(value: float) -> str:
    """Return a number with three digits and an SI prefix, such as `269 M`."""
    for prefix in ("", "k", "M", "G", "T"):
        if abs(value) < 999.5:
            return f"{value:.3g} {prefix}"
        value /= 1000
    return f"{value:.3g} P"
