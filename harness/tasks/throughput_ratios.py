"""How much faster a quantized model is than the float one.

The name of a ratio says which float path it is to:

    <phase>_ratio           the float model with native products
    <phase>_ratio_float32   the float model with float32 products
    <phase>_ratio_best      the faster of the two: what a recipe gains over the best that the float model can do here

The last two are there for the phases in which the paths differ. All models of a round met the same disturbances, so the interval is that
of `harness.timing.distribution`, by a bootstrap over rounds.
"""

from collections.abc import Collection, Iterator, Mapping
from statistics import median

from harness.models.generation import Phase
from harness.results.record import Metric, Unit
from harness.tasks.throughput_subject import FLOAT, FLOAT32_PRODUCTS, PHASES, RECIPE, Requests
from harness.timing.distribution import Ratio, ratio, ratio_to_fastest


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
        yield _metric(f"{phase}_ratio", ratio(native, after, seed), len(after), "native products")
        if phase in differing:
            widened = requests[FLOAT32_PRODUCTS].seconds(phase)
            found = ratio(widened, after, seed)
            yield _metric(f"{phase}_ratio_float32", found, len(after), "float32 products")
            found = ratio_to_fastest((native, widened), after, seed)
            faster = "native" if median(native) <= median(widened) else "float32"
            of = f"{faster} products, the faster of its two ways here"
            yield _metric(f"{phase}_ratio_best", found, len(after), of)


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
