"""The protocol between tasks and engines.

    Task.run(engine) -> TaskResult     what is asked, and what the answers mean
    Engine                             how a model answers

A task knows token ids and samples, and no model, batch or device. An engine knows no data set and
no metric. It gets all requests of a task at once, and yields answers in any order.

`Engine` is the base class of all engines, and can do nothing. An engine overrides what it can do,
and names it in `kinds`. A run of a task that asks for more is `unsupported`: no other engine
answers in its place.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Literal,
    NamedTuple,
    TypeVar,
)

from harness.engines.requests import Answer, Compared, Request, Score
from harness.engines.timed import TimedModel, Workload
from harness.errors import UnsupportedEngine
from harness.results.record import BaselineInfo

if TYPE_CHECKING:
    from harness.models.tokens import Tokenizer

Kind = Literal["score", "generate", "compare", "time"]
"""What may be asked of an engine: `Score` and `Generate` requests, a comparison, or times."""
Made = TypeVar("Made")


class Engine:
    """How a model answers; see the module docstring."""

    label: ClassVar[str] = "engine"
    """Name of the option that starts the engine, such as `local` in `engine=local`."""
    kinds: ClassVar[frozenset[Kind]] = frozenset()
    """What the engine can be asked."""

    @property
    def name(self) -> str:
        """Name of the model, for messages."""
        raise NotImplementedError

    @property
    def tokenizer(self) -> "Tokenizer":
        """The model's tokenizer."""
        raise NotImplementedError

    @property
    def max_length(self) -> int | None:
        """Longest sequence that the model was made for [token]; None for no limit."""
        return None

    @property
    def vocab_size(self) -> int:
        """Number of token ids that the model scores."""
        return self.tokenizer.num_rows

    def fits(self, length: int) -> bool:
        """Return whether a sequence of `length` tokens is within `max_length`."""
        return self.max_length is None or length <= self.max_length

    def describe(self) -> Mapping[str, Any]:
        """Return facts about the engine that can move numbers, for records."""
        return {}

    @classmethod
    def refuses(cls, kind: Kind) -> str | None:
        """Return why the engine cannot be asked for a kind of answer, or None if it can."""
        return None if kind in cls.kinds else f"it cannot {kind}"

    def warnings(self) -> tuple[str, ...]:
        """Return warnings about how the requests so far were answered."""
        return ()

    def cached(self, key: Hashable, make: Callable[[], Made]) -> Made:  # noqa: ARG002
        """Return `make()`; an engine that answers in several runs may call it once for each key."""
        return make()

    def answer(
        self,
        requests: Sequence[Request],  # noqa: ARG002
    ) -> Iterator[tuple[int, Answer]]:
        """Yield the index of each request and its answer, in any order.

        Raises:
            InvalidResult: A logit of a decoded position is NaN.
        """
        raise self._refusal("score")

    def baseline(self, task: str) -> "Baseline":  # noqa: ARG002 - an engine that can uses it
        """Return the unquantized model that this model is compared with.

        Args:
            task: Name of the task, for messages.

        Raises:
            UnsupportedRecipe: The model came quantized, and no unquantized model is named.
            ModelError: The named model cannot be compared with this one.
        """
        raise self._refusal("compare")

    def unquantized(self, task: str) -> "Baseline":  # noqa: ARG002 - as above
        """Return the model without its recipe, even if another model is named as the baseline.

        A checkpoint that came quantized has no such form; its baseline is returned.

        Args:
            task: Name of the task, for messages.

        Raises:
            UnsupportedRecipe: The model came quantized, and no unquantized model is named.
            ModelError: The named model cannot be compared with this one.
        """
        raise self._refusal("compare")

    def variants(self) -> "Iterator[Variant]":
        """Yield engines that run this model in other ways, which should not change an answer."""
        raise self._refusal("compare")

    def compare(
        self,
        other: "Engine",  # noqa: ARG002
        requests: Sequence[Score],  # noqa: ARG002
    ) -> Iterator[tuple[int, Compared]]:
        """Yield the index of each request, and its statistics with `other` as the baseline.

        Raises:
            UnsupportedEngine: The two cannot be compared, or the model or machine lacks what this
                one needs.
        """
        raise self._refusal("compare")

    def time(self, workload: Workload) -> AbstractContextManager[TimedModel]:  # noqa: ARG002
        """Context manager: the model, which answers the workload's request and can be timed.

        Raises:
            ModelError: The model cannot run token by token.
            UnsupportedEngine: The engine cannot run the workload as it is asked for.
        """
        raise self._refusal("time")

    def _refusal(self, kind: Kind) -> UnsupportedEngine:
        return UnsupportedEngine(
            f"the engine {self.label} was asked to {kind}; {self.refuses(kind)}"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Baseline:
    """The unquantized model that a model is compared with; see `Engine.baseline`."""

    engine: Engine
    info: BaselineInfo
    warnings: tuple[str, ...] = ()

    @property
    def is_itself(self) -> bool:
        """The model is its own baseline, so every difference is 0."""
        return self.info.relation == "itself"


class Variant(NamedTuple):
    """A model that runs in another way, which should not change an answer."""

    name: str
    """What changes, such as `attention`."""
    change: str
    """The new setting in one word, such as `eager`."""
    engine: Engine
    """The model with the change; UnsupportedEngine if model or machine do not support it."""
