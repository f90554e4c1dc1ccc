"""Claims about speed in words: cells of a table, and a line."""

from collections.abc import Sequence

from harness.claims.speed import Claims, Speed
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


def sentence(claims: Sequence[Speed]) -> str:
    """Return all claims about the speed of one run, the test behind them, and what weakens them."""
    shown = [f"{each.phase} {_cell(each, f' of {each.way} products')}" for each in claims]
    tested = [each for each in claims if each.p is not None]
    tests = [f"signed ranks of {tested[0].ratio.n} rounds"] if tested else []
    families = {each.phase: each.num_tests for each in tested if each.num_tests > 1}
    if families:
        of_phases = [f"{num} comparisons of {phase}" for phase, num in families.items()]
        tests.append(f"Holm over {' and '.join(of_phases)}")
    # An unstable run is said of every claim, also where the ratio is beyond its drift.
    against = [why for each in claims for why in (each.why_not, each.unstable) if why is not None]
    return f"{claims[0].row.label} / float: {'; '.join([*shown, *tests, *dict.fromkeys(against)])}"


def _ratio(speed: Speed) -> str:
    shown = figures.show_with_interval(speed.ratio, "3 decimals")
    return shown if speed.ratio.ci95 is not None else f"{shown} (no interval)"
