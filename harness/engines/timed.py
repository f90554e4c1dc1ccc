"""A model that can be timed: what a task asks, and what an engine stamps.

    with engine.time(workload) as model:       B prompts of S tokens, each continued by G tokens
        model.request()                         -> Timed: stamps of each sequence

The task decides how often a request is made, in which order, and beside which other models. It says
what the times mean. The engine prepares the model, waits for its device, and takes the stamps.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, NamedTuple

from harness.timing.roofline import Shape

CacheKind = Literal["static", "dynamic"]
Phase = Literal["prefill", "decode"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """One request, made again and again."""

    prompts: tuple[tuple[int, ...], ...]
    """Token ids of B prompts, which have one length S and run together."""
    new_tokens: int
    """Tokens G that are decoded after each prompt, at least 2. End-of-text tokens end nothing."""
    cache: CacheKind = "static"
    """KV cache of a fixed size, or one that grows."""
    compile: bool = False
    """Compile both phases, for an engine that compiles only if it is told to."""


class Stamps(NamedTuple):
    """When one sequence was run, in seconds of one clock from an arbitrary start."""

    started: float
    """The prompt begins to run [s]."""
    first_token: float
    """The first new token exists [s]."""
    last_token: float
    """The last new token exists [s]."""
    ttft_s: float | None = None
    """Time to first token as a client sees it, queue included; None where it is not known [s]."""
    inter_token_s: tuple[float, ...] | None = None
    """Inter-token latency of each decode step, in order; None where steps are not stamped [s]."""


class Timed(NamedTuple):
    """The times of one request."""

    sequences: tuple[Stamps, ...] | None
    """Stamps of each sequence, or one for a batch that runs as one; None where there are none."""
    whole_s: float
    """Time of the whole request as this process sees it; only the warm-up uses it [s]."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Matmuls:
    """The matmuls with weights that were observed in one phase."""

    work: Mapping[str, float]
    """Type, such as `int8` -> number of operations; one multiply-add is two."""
    kernels: tuple[str, ...]
    """Operators such as `aten._int_mm`, the one with the most operations first."""


class NoShape(Exception):  # noqa: N818 - a reason, not a failure
    """The costs of a model do not follow from its shape; the message says why."""


class TimedModel:
    """A model that can be timed; what an engine does not know is None or empty.

    An engine overrides `device`, `how` and `request`, and whatever else it knows.
    """

    @property
    def device(self) -> str:
        """The device that runs the model, such as `cpu` or `cuda:0`."""
        raise NotImplementedError

    @property
    def how(self) -> str:
        """How a request runs, as a part of a protocol line, such as `cache=static|compile=no`."""
        raise NotImplementedError

    def request(self) -> Timed:
        """Answer the request once; return its times when the device is done.

        No time includes putting the model in place.

        Raises:
            InvalidResult: Other work was done than was asked for.
        """
        raise NotImplementedError

    @property
    def runs_here(self) -> bool:
        """Whether this process runs the model, so that the load by other processes is known."""
        return True

    def with_float32_matmuls(self) -> "TimedModel | None":
        """Return the same model with float32 matmuls; None if it multiplies in one way only."""
        return None

    @property
    def weight_bytes(self) -> int | None:
        """Memory of the weights [byte]."""
        return None

    @property
    def cache_bytes(self) -> int | None:
        """Memory of the KV cache after a request [byte]."""
        return None

    @property
    def compile_s(self) -> float:
        """Time of compiling, all of which is in the warm-up [s]."""
        return 0.0

    @property
    def matmuls(self) -> Mapping[Phase, Matmuls]:
        """The matmuls of each phase, as observed; empty if the engine cannot observe them."""
        return MappingProxyType({})

    @property
    def streamed_bytes(self) -> int:
        """Memory of the matrices that every decode step reads [byte]; needs a `shape`."""
        raise NotImplementedError

    @property
    def attention_types(self) -> tuple[str, ...]:
        """Types that attention may compute in, such as `bfloat16`; needs a `shape`."""
        raise NotImplementedError

    def shape(self) -> Shape:
        """Return the sizes that decide the least bytes and operations of a request.

        Raises:
            NoShape: The costs do not follow from sizes, or the engine does not know them.
        """
        raise NoShape("the engine does not show the layers of the model")
