"""What an engine gives to be timed: a model that answers one request again and again.

    with engine.time(workload) as model:       B prompts of S tokens, each continued by G tokens
        model.request()                         -> Timed: when each sequence was run

The task decides how often, in which order and beside which other models a request is made, and what
the times mean. The engine prepares the model, waits for its device, and takes the time stamps.
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
    """When one sequence was run: seconds of one clock, from any moment on."""

    started: float
    """The prompt begins to run."""
    first_token: float
    last_token: float
    ttft_s: float | None = None
    """Time to first token as the client sees it, with queue; None where it is not known [s]."""
    inter_token_s: tuple[float, ...] | None = None
    """Inter-token latency of each decode step, in order; None where only the ends are known [s]."""


class Timed(NamedTuple):
    """The times of one request."""

    sequences: tuple[Stamps, ...] | None
    """Stamps of each sequence, or one for a batch that runs as one; None where there are none."""
    whole_s: float
    """The whole request as this process sees it [s]. Only the warm-up goes by it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Matmuls:
    """The matmuls with weights that were observed."""

    work: Mapping[str, float]
    """Type, such as `int8` -> number of operations; one multiply-add is two."""
    kernels: tuple[str, ...]
    """Operators such as `aten._int_mm`, in the order of their operations, most first."""


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
        """How a request is run, as a part of a protocol line, such as `cache=static|compile=no`."""
        raise NotImplementedError

    def request(self) -> Timed:
        """Answer the request once; return when the device is done.

        Putting the model in place is not part of any time.

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
        """Time of compiling, which no time of a request may contain after the warm-up [s]."""
        return 0.0

    @property
    def matmuls(self) -> Mapping[Phase, Matmuls]:
        """The matmuls of each phase, as observed; empty where they are not."""
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
