"""What is timed, and the requests that are made of it.

    float              the float model, multiplied as the library does in the model's type
    float32_products   the same model, its 16-bit products made in float32 (`harness.engines.local.cpu_matmul`)
    recipe             the quantized model

A CPU without 16-bit instructions makes 16-bit products several times as slowly as float32 ones. There a recipe that is faster than
`float` may gain nothing over `float32_products`; elsewhere it may be the other way round. So both are timed, wherever they differ.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from types import MappingProxyType

from harness.engines.local import cpu_matmul as products
from harness.engines.local.generation import Generation, Phase
from harness.machine.energy import Counter
from harness.timing.clock import Clock
from harness.timing.matmul_types import Products, Spy
from harness.timing.request import Timing, time_request
from harness.timing.warm_up import WarmUp

FLOAT, FLOAT32_PRODUCTS, RECIPE = "float", "float32_products", "recipe"
"""Names of what is timed, in the ids of items."""
LABELS = MappingProxyType(
    {
        FLOAT: "float model",
        FLOAT32_PRODUCTS: "float model with float32 products",
        RECIPE: "quantized model",
    }
)
"""The same in words."""
PHASES: tuple[Phase, ...] = ("prefill", "decode")
"""In the order of a request."""

Within = Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """What one request is."""

    batch: int
    """Sequences."""
    prompt: int
    """Tokens of each prompt."""
    new: int
    """Tokens that follow each prompt."""

    @property
    def steps(self) -> int:
        """Decode steps: the first new token belongs to prefill."""
        return self.new - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """A model to be timed."""

    name: str
    """`float`, `float32_products`, or `recipe`: the model that a recipe has changed, or a checkpoint that came quantized."""
    within: Within
    """Inside of this it is in place."""
    generation: Generation
    weight_bytes: int
    """Memory of its weights [byte]."""
    streamed_bytes: int
    """Memory of the matrices that every decode step reads [byte]."""
    products: Mapping[Phase, Products]
    """What it multiplies with."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One request."""

    timing: Timing
    energy_j: float | None
    """None where it cannot be read [J]."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Requests:
    """Every request that was made of a model."""

    size: Size
    warm_up: WarmUp
    rounds: tuple[Request, ...]

    def seconds(self, phase: Phase) -> list[float]:
        """Return the time of a phase in each round [s]."""
        return self.prefill_s if phase == "prefill" else self.decode_s

    @property
    def prefill_s(self) -> list[float]:
        """Time to first token in each round [s]."""
        return [request.timing.prefill_s for request in self.rounds]

    @property
    def decode_s(self) -> list[float]:
        """Time of all decode steps in each round [s]."""
        return [request.timing.decode_s for request in self.rounds]

    @property
    def total_s(self) -> list[float]:
        """Time of the whole request in each round [s]."""
        return [request.timing.total_s for request in self.rounds]

    @property
    def gaps_s(self) -> list[float]:
        """Every gap between two tokens [s]."""
        return [gap for request in self.rounds for gap in request.timing.gaps_s]


def make_request(
    subject: Subject, new_tokens: int, clock: Clock, counter: Counter | None
) -> Request:
    """Make one request of a subject; what puts it in place is not timed."""
    with subject.within():
        before = counter.read() if counter else 0.0
        timing = time_request(subject.generation, new_tokens, clock)
        used = counter.read() - before if counter else None
    return Request(timing=timing, energy_j=used)


def with_float32_products(within: Within) -> Within:
    """Return a context manager in which the same model is in place, and multiplies in float32."""

    @contextmanager
    def placed() -> Iterator[None]:
        with within(), products.multiplied("float32"):
            yield

    return placed


def seen_products(generation: Generation) -> dict[Phase, Products]:
    """Return what the model that is in place multiplies with in each phase."""
    found: dict[Phase, Products] = {}
    for phase, run in zip(PHASES, (generation.prefill, generation.step), strict=True):
        with Spy() as spy:
            run()
        found[phase] = spy.products()
    return found


def differing_phases(one: Subject, other: Subject) -> tuple[Phase, ...]:
    """Return the phases in which two subjects multiply in other types; in the others they are the same work."""
    return tuple(
        phase for phase in PHASES if one.products[phase].work != other.products[phase].work
    )
