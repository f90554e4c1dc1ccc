"""Speed of a recipe over the speed of the unquantized model.

The name of a ratio tells its denominator:

    <phase>_ratio           the unquantized model with native matmuls
    <phase>_ratio_float32   the unquantized model with float32 matmuls
    <phase>_ratio_best      the faster of both: the gain over the best speed without a recipe

The last two exist only for phases in which native and float32 matmuls differ. Disturbances of a
round affect all models alike, so the interval is a bootstrap over rounds
(`harness.timing.distribution`).

The faster of both is chosen once, by its median. If each draw of the bootstrap chose anew, the
faster one would gain twice from chance: in 600 simulated runs where both and the recipe were
equally fast, the recipe was called slower in 7 % of the runs, and in 4 % with a single choice. (A
95 % interval promises 2.5 % for each side.)
"""

from collections.abc import Collection, Iterator, Mapping
from statistics import median

from harness.engines.timed import Phase
from harness.results.record import Metric, Unit
from harness.tasks.throughput.subject import FLOAT, FLOAT32_MATMULS, PHASES, RECIPE
from harness.tasks.throughput.times import SubjectTimes
from harness.timing.distribution import Ratio, ratio


def ratios(
    times: Mapping[str, SubjectTimes], differing: Collection[Phase], seed: int
) -> Iterator[Metric]:
    """Yield the ratios of each phase.

    Args:
        times: Name of the subject -> its timed requests.
        differing: Phases in which native and float32 matmuls differ.
        seed: Seed of the bootstrap.
    """
    for phase in PHASES:
        native, after = times[FLOAT].seconds(phase), times[RECIPE].seconds(phase)
        to_native = ratio(native, after, seed)
        yield _metric(f"{phase}_ratio", to_native, len(after), "native products")
        if phase in differing:
            widened = times[FLOAT32_MATMULS].seconds(phase)
            to_widened = ratio(widened, after, seed)
            yield _metric(f"{phase}_ratio_float32", to_widened, len(after), "float32 products")
            # A tie goes to the native way.
            is_native = median(native) <= median(widened)
            name, best = ("native", to_native) if is_native else ("float32", to_widened)
            of = f"{name} products, the faster of its two ways here"
            yield _metric(f"{phase}_ratio_best", best, len(after), of)


def _metric(name: str, found: Ratio, rounds: int, of: str) -> Metric:
    return Metric(
        name=name,
        value=found.value,
        unit=Unit.ONE,
        n=rounds,
        n_of="round",
        ci95=found.interval,
        higher_is_better=True,
        # Reports look for `native products` in this note: older records do not name the way.
        note=f"to the unquantized model with {of}; interleaved rounds, bootstrap over rounds",
    )
