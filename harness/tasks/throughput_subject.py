"""What is timed: the float model or the quantized one, and the requests that are made of it."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from harness.models.generation import Generation
from harness.timing.clock import Clock
from harness.timing.energy import Counter
from harness.timing.kernels import Products, Spy
from harness.timing.request import Timing, time_request
from harness.timing.steady import WarmUp


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
    """`float`, or `recipe`: the model that a recipe has changed, or a checkpoint that came quantized."""
    within: Callable[[], AbstractContextManager[None]]
    """Inside of this it is in place."""
    generation: Generation
    weight_bytes: int
    """Memory of its weights [byte]."""
    streamed_bytes: int
    """Memory of the matrices that every decode step reads [byte]."""
    products: Products
    """What it multiplies with in prefill."""


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


def seen_products(generation: Generation) -> Products:
    """Return what the model that is in place multiplies with in prefill."""
    spy = Spy()
    with spy:
        generation.prefill()
    return spy.products()
