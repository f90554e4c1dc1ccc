"""The speed of a recipe beside the unquantized model, which a CPU can run in two ways.

On a CPU the matmuls of a 16-bit model run natively or in float32 (`docs/throughput.md`).
`task=throughput` times both ways. A ratio always names the way that it compares with.
"""

from collections.abc import Callable, Mapping

from harness.results import formatting as figures
from harness.results import names
from harness.results.record import Metric

Lookup = Callable[[str], Metric | None]
"""Returns a metric of a run by its name, or None."""


def speeds(metric: Lookup, phase: str, *, alone: bool = False) -> dict[str, float]:
    """Return the speeds of the unquantized model [token/s] by matmuls (`native`, `float32`).

    Args:
        metric: The metrics of a run.
        phase: `decode` or `prefill`.
        alone: The run measured the unquantized model alone, whose speed is with native matmuls.
    """
    named = {
        "native": phase if alone else f"{names.BASELINE}{phase}",
        "float32": f"{names.BASELINE_FLOAT32}{phase}",
    }
    found = {matmuls: metric(name) for matmuls, name in named.items()}
    return {k: m.value for k, m in found.items() if m is not None and m.value is not None}


def ratio(metric: Metric | None, of: str = "") -> str:
    """Return a ratio with its interval, and `faster`, `slower` or `cannot tell`.

    It is `cannot tell` if the interval holds 1, or if there is no interval.

    Args:
        metric: The ratio, or None.
        of: Words behind the ratio, such as ` of native products`.
    """
    if metric is None or metric.value is None:
        return figures.MISSING
    if metric.ci95 is None:
        return f"{figures.show(metric, '3 decimals')} (no interval){of}, cannot tell"
    low, high = metric.ci95
    words = "cannot tell"
    if not low <= 1 <= high:
        words = "faster" if low > 1 else "slower"
    return f"{figures.show_with_interval(metric, '3 decimals')}{of}, {words}"


def ratio_to_faster(metric: Lookup, phase: str) -> str:
    """Return the ratio to the faster way of the unquantized model, with the name of that way.

    `-` if the model has one way only.
    """
    best = metric(f"{phase}{names.RATIO_BEST}")
    if best is None:
        return figures.MISSING
    found = speeds(metric, phase)
    return ratio(best, f" of {max(found, key=found.__getitem__)} products" if found else "")


def speeds_in_words(metric: Lookup) -> str:
    """Return the ratios of a quantized model, or both speeds of an unquantized one.

    Empty for runs of other tasks, and for an unquantized model that has one way only.
    """
    return "; ".join(line for phase in names.PHASES if (line := _phase_in_words(metric, phase)))


def _phase_in_words(metric: Lookup, phase: str) -> str:
    if (native := metric(f"{phase}{names.RATIO}")) is not None:
        shown = [ratio(native, " of native products")]
        if (widened := metric(f"{phase}{names.RATIO_FLOAT32}")) is not None:
            shown.append(ratio(widened, " of float32 products"))
        return f"{phase} / float: {'; '.join(shown)}"
    found = speeds(metric, phase, alone=True)
    return f"{phase}: {in_turn(found)} products [token/s]" if len(found) > 1 else ""


def in_turn(found: Mapping[str, float]) -> str:
    """Return speeds by matmuls, such as `256 native, 657 float32`."""
    return ", ".join(f"{figures.rate(value)} {matmuls}" for matmuls, value in found.items())
