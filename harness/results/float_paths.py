"""Compare the speed of a recipe with the float model, which a CPU can run in two ways; from the metrics of a timed run.

On a CPU the matmuls of a 16-bit model can run natively or in float32 (`docs/throughput.md`). `task=throughput` times both ways, and
every ratio names the way that it compares with.
"""

from collections.abc import Callable, Mapping

from harness.results import formatting as figures
from harness.results.record import Metric

Lookup = Callable[[str], Metric | None]
"""Returns a metric of a run by its name, or None."""
PHASES = ("decode", "prefill")


def speeds(metric: Lookup, phase: str, *, alone: bool = False) -> dict[str, float]:
    """Return the speeds of the float model that were timed, by its products (`native`, `float32`) [token/s].

    Args:
        metric: The metrics of a run.
        phase: `decode` or `prefill`.
        alone: The run is one of the float model itself, whose own speed is with native products.
    """
    names = {
        "native": phase if alone else f"baseline_{phase}",
        "float32": f"baseline_float32_{phase}",
    }
    found = {products: metric(name) for products, name in names.items()}
    return {k: m.value for k, m in found.items() if m is not None and m.value is not None}


def ratio(metric: Metric | None, of: str = "") -> str:
    """Return a ratio with its interval, and `faster` or `slower` if the interval excludes 1, else `cannot tell`."""
    if metric is None or metric.value is None:
        return figures.MISSING
    if metric.ci95 is None:
        return f"{metric.value:.3f} (no interval){of}, cannot tell"
    low, high = metric.ci95
    words = "cannot tell"
    if not low <= 1 <= high:
        words = "faster" if low > 1 else "slower"
    return f"{metric.value:.3f} [{low:.3f}, {high:.3f}]{of}, {words}"


def ratio_to_faster(metric: Lookup, phase: str) -> str:
    """Return the ratio to the faster way of the float model, with the name of that way; `-` if the model has only one way."""
    best = metric(f"{phase}_ratio_best")
    if best is None:
        return figures.MISSING
    found = speeds(metric, phase)
    return ratio(best, f" of {max(found, key=found.__getitem__)} products" if found else "")


def in_words(metric: Lookup) -> str:
    """Return the ratios of a quantized model, or both speeds of a float model that has two ways; nothing for other runs."""
    return "; ".join(line for phase in PHASES if (line := _in_words(metric, phase)))


def _in_words(metric: Lookup, phase: str) -> str:
    if (native := metric(f"{phase}_ratio")) is not None:
        shown = [ratio(native, " of native products")]
        if (widened := metric(f"{phase}_ratio_float32")) is not None:
            shown.append(ratio(widened, " of float32 products"))
        return f"{phase} / float: {'; '.join(shown)}"
    found = speeds(metric, phase, alone=True)
    return f"{phase}: {in_turn(found)} products [token/s]" if len(found) > 1 else ""


def in_turn(found: Mapping[str, float]) -> str:
    """Return speeds by products, such as `256 native, 657 float32`."""
    return ", ".join(f"{figures.rate(value)} {products}" for products, value in found.items())
