"""How much faster a quantized model is than the float one.

The name of a ratio says which float path it is to:

    <phase>_ratio           the float model with native products
    <phase>_ratio_float32   the float model with float32 products
    <phase>_ratio_best      the one of the two that was faster: what a recipe gains over the best that the float model can do here

The last two are there for the phases in which the paths differ. All models of a round met the same disturbances, so the interval is that
of `harness.timing.distribution`, by a bootstrap over rounds. The faster path is chosen once, by its median. Chosen anew in each draw,
it would gain twice from chance: of two equal paths a recipe as fast as both was then called slower in 7 % of 600 simulated runs,
chosen once in 4 % (2.5 % is what a 95 % interval promises a side).
"""

from collections.abc import Collection, Iterator, Mapping
from statistics import median

from harness.engines.local.generation import Phase
from harness.results.record import Metric, Unit
from harness.tasks.throughput.subject import FLOAT, FLOAT32_PRODUCTS, PHASES, RECIPE, Requests
from harness.timing.distribution import Ratio, ratio


def ratios(
    requests: Mapping[str, Requests], differing: Collection[Phase], seed: int
) -> Iterator[Metric]:
    """Yield the ratios of each phase.

    Args:
        requests: What was timed, by the name of the subject.
        differing: Phases in which float32 products are other products than native ones.
        seed: Of the bootstrap.
    """
    for phase in PHASES:
        native, after = requests[FLOAT].seconds(phase), requests[RECIPE].seconds(phase)
        to_native = ratio(native, after, seed)
        yield _metric(f"{phase}_ratio", to_native, len(after), "native products")
        if phase in differing:
            widened = requests[FLOAT32_PRODUCTS].seconds(phase)
            to_widened = ratio(widened, after, seed)
            yield _metric(f"{phase}_ratio_float32", to_widened, len(after), "float32 products")
            # Of two equally fast ways the native one.
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
        note=f"to the float model with {of}; interleaved rounds, bootstrap over rounds",
    )
