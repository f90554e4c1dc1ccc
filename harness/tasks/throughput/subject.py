"""Subjects: the models that are timed, and the requests they answer.

    float              the unquantized model with native matmuls, in the model's own type
    float32_products   the same model with float32 matmuls (`harness.engines.local.cpu_matmul`)
    recipe             the quantized model

On a CPU without 16-bit instructions, 16-bit matmuls are several times slower than float32 ones.
There a recipe that is faster than `float` may gain nothing over `float32_products`; on other CPUs
the reverse. So both are timed wherever they differ.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType

from harness.engines.local import cpu_matmul as products
from harness.engines.local.engine import Become
from harness.engines.local.generation import Generation, Phase
from harness.machine.energy import Counter
from harness.timing.clock import Clock
from harness.timing.matmul_types import Matmuls, Spy
from harness.timing.request import Timing, time_request
from harness.timing.warm_up import WarmUp

FLOAT, FLOAT32_MATMULS, RECIPE = "float", "float32_products", "recipe"
"""Names of subjects, in the ids of samples."""
LABELS = MappingProxyType(
    {
        FLOAT: "unquantized model",
        FLOAT32_MATMULS: "unquantized model with float32 matmuls",
        RECIPE: "quantized model",
    }
)
"""Name of a subject -> words for messages."""
PHASES: tuple[Phase, ...] = ("prefill", "decode")
"""In the order of a request."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """The size of one request."""

    batch: int
    """Number of sequences."""
    prompt: int
    """Tokens of each prompt."""
    new: int
    """New tokens of each sequence."""

    @property
    def steps(self) -> int:
        """Number of decode steps; the first new token belongs to prefill."""
        return self.new - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """A model to be timed."""

    name: str
    """`float`, `float32_products`, or `recipe`, also for a checkpoint that came quantized."""
    within: Become
    """Context manager inside which this model is in place."""
    generation: Generation
    weight_bytes: int
    """Memory of the weights [byte]."""
    streamed_bytes: int
    """Memory of the matrices that every decode step reads [byte]."""
    matmuls: Mapping[Phase, Matmuls]
    """The matmuls of each phase, as observed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """The measurements of one request."""

    timing: Timing
    energy_j: float | None
    """Energy of the device; None where there is no counter [J]."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Requests:
    """All timed requests of one subject."""

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
    def inter_token_s(self) -> list[float]:
        """Every inter-token latency, over all rounds [s]."""
        return [latency for request in self.rounds for latency in request.timing.inter_token_s]


def make_request(
    subject: Subject, new_tokens: int, clock: Clock, counter: Counter | None
) -> Request:
    """Time one request of a subject; putting the model in place is not timed."""
    with subject.within():
        before = counter.read() if counter else 0.0
        timing = time_request(subject.generation, new_tokens, clock)
        used = counter.read() - before if counter else None
    return Request(timing=timing, energy_j=used)


def with_float32_matmuls(within: Become) -> Become:
    """Return a context manager that puts the same model in place and multiplies in float32."""

    @contextmanager
    def placed() -> Iterator[None]:
        with within(), products.multiplied("float32"):
            yield

    return placed


def observe_matmuls(generation: Generation) -> dict[Phase, Matmuls]:
    """Run both phases of the model in place and return the matmuls of each."""
    found: dict[Phase, Matmuls] = {}
    for phase, run in zip(PHASES, (generation.prefill, generation.step), strict=True):
        with Spy() as spy:
            run()
        found[phase] = spy.matmuls()
    return found


def differing_phases(one: Subject, other: Subject) -> tuple[Phase, ...]:
    """Return the phases in which two subjects multiply in different types."""
    return tuple(phase for phase in PHASES if one.matmuls[phase].work != other.matmuls[phase].work)
