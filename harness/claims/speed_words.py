"""Claims about speed in words: cells of a table, and a sentence."""

from harness.claims.speed import Claims, Speed, SpeedVerdict
from harness.results import float_paths
from harness.results import formatting as figures
from harness.results.float_paths import WAYS


def to_native(claims: Claims, phase: str) -> str:
    """Return the claim beside native products, such as `1.530 [1.500, 1.560], faster (p = 0.002)`.

    Args:
        claims: The claims of a run; see `harness.claims.speed.of_run`.
        phase: `decode` or `prefill`.
    """
    found = claims.get((phase, "native"))
    return figures.MISSING if found is None else _cell(found)


def to_faster(claims: Claims, phase: str) -> str:
    """Return the claim beside the faster products, and name them; `-` if there is one way."""
    found = {way: claims[phase, way] for way in WAYS if (phase, way) in claims}
    row = next((each.row for each in found.values()), None)
    way = None if row is None else float_paths.faster_way(row.metric, phase)
    return figures.MISSING if way not in found else _cell(found[way], f" of {way} products")


def _cell(speed: Speed, of: str = "") -> str:
    verdict = "no test" if speed.p is None else f"{speed.verdict} (p = {figures.p_value(speed.p)})"
    return f"{_ratio(speed)}{of}, {verdict}"


def sentence(speed: Speed) -> str:
    """Return what is claimed of the speed of a recipe in a phase."""
    words = {
        SpeedVerdict.FASTER: "faster than",
        SpeedVerdict.SLOWER: "slower than",
        SpeedVerdict.CANNOT_TELL: "not distinguishable in speed from",
    }[speed.verdict]
    reference = f"the unquantized model with {speed.way} products"
    return f"{speed.row.label}, {speed.phase}: {words} {reference} ({_evidence(speed)})"


def _evidence(speed: Speed) -> str:
    """Return the ratio with its interval, the test, and what stands against a claim."""
    parts = [f"ratio {_ratio(speed)}"]
    if speed.p is not None:
        over = f" over {speed.num_tests} comparisons (Holm)" if speed.num_tests > 1 else ""
        parts.append(f"p = {figures.p_value(speed.p)}{over}")
        parts.append(f"signed ranks of {speed.ratio.n} rounds")
    # An unstable run is said of every claim, also where the ratio is beyond its drift.
    parts += dict.fromkeys(filter(None, (speed.why_not, speed.unstable)))
    return "; ".join(parts)


def _ratio(speed: Speed) -> str:
    shown = figures.show_with_interval(speed.ratio, "3 decimals")
    return shown if speed.ratio.ci95 is not None else f"{shown} (no interval)"
