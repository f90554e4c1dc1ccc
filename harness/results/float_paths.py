"""The speed of a recipe beside the unquantized model, which a CPU can run in two ways.

On a CPU the matmuls of a 16-bit model run natively or in float32 (`docs/throughput.md`).
`task=throughput` times both ways. A ratio always names the way that it compares with.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal, TypeAlias

from harness.results import formatting as figures
from harness.results import names
from harness.results.record import Metric

Way: TypeAlias = Literal["native", "float32"]
WAYS: Mapping[Way, str] = MappingProxyType({"native": names.RATIO, "float32": names.RATIO_FLOAT32})
"""Way of the unquantized model -> end of the name of the ratio to it."""
Lookup = Callable[[str], Metric | None]
"""Returns a metric of a run by its name, or None."""


def speeds(metric: Lookup, phase: str, *, alone: bool = False) -> dict[Way, float]:
    """Return the speeds of the unquantized model [token/s] by matmuls (`native`, `float32`).

    Args:
        metric: The metrics of a run.
        phase: `decode` or `prefill`.
        alone: The run measured the unquantized model alone, whose speed is with native matmuls.
    """
    named: dict[Way, str] = {
        "native": phase if alone else f"{names.BASELINE}{phase}",
        "float32": f"{names.BASELINE_FLOAT32}{phase}",
    }
    found = {matmuls: metric(name) for matmuls, name in named.items()}
    return {k: m.value for k, m in found.items() if m is not None and m.value is not None}


def faster_way(metric: Lookup, phase: str) -> Way | None:
    """Return the faster way of the unquantized model beside a recipe; None if it has one way."""
    found = speeds(metric, phase)
    if metric(f"{phase}{names.RATIO_BEST}") is None or not found:
        return None
    return max(found.items(), key=lambda each: each[1])[0]


def speeds_in_words(metric: Lookup) -> str:
    """Return the speeds of an unquantized model that was timed in both ways, else nothing."""
    if any(metric(f"{phase}{names.RATIO}") is not None for phase in names.PHASES):
        return ""
    both = {phase: speeds(metric, phase, alone=True) for phase in names.PHASES}
    shown = (
        f"{phase}: {in_turn(found)} products [token/s]"
        for phase, found in both.items()
        if len(found) > 1
    )
    return "; ".join(shown)


def in_turn(found: Mapping[Way, float]) -> str:
    """Return speeds by matmuls, such as `256 native, 657 float32`."""
    return ", ".join(f"{figures.rate(value)} {matmuls}" for matmuls, value in found.items())
