"""The engine `local`: a whole model in this process.

`Local` is the option of `engine=`; `LocalEngine` answers for one loaded model. A recipe changes the
loaded model in place, so an engine answers for the model as it is at the time of the request. With
`within` it answers for the model in another state, such as its unquantized weights.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, TypeVar

import torch

from harness.engines.base import Baseline, Engine, Kind, Variant
from harness.engines.local import baselines, kept_logits, layers
from harness.engines.local.answers import answer
from harness.engines.local.compare import compare
from harness.engines.local.split_model import split
from harness.engines.local.timed import timed
from harness.engines.local.variants import variants
from harness.engines.paired import Calls, KeptDistributions, LayerDifference
from harness.engines.requests import Answer, Compared, Request, Score
from harness.engines.timed import TimedModel, Workload
from harness.errors import UnsupportedEngine, check_bounds
from harness.models.loaded import LoadedModel, Weights
from harness.models.tokens import Tokenizer, tokenizer_of

BATCH_TOKENS: Mapping[str, int] = MappingProxyType({"cpu": 2048, "cuda": 16384})
"""Tokens that run together if `batch_tokens` is None, by type of device: enough to keep its cores
busy."""
Become = Callable[[], AbstractContextManager[None]]
"""Makes a context manager in which a loaded model is in another state."""
Made = TypeVar("Made")


class LocalEngine(Engine):
    """Answers for one loaded model."""

    label: ClassVar[str] = "local"
    kinds: ClassVar[frozenset[Kind]] = frozenset({"score", "generate", "compare", "time"})

    def __init__(
        self,
        loaded: LoadedModel,
        batch_tokens: int | None = None,
        within: Become = nullcontext,
        compared_at_once: int = 1,
    ) -> None:
        """Answer for a model.

        Args:
            loaded: The model.
            batch_tokens: Tokens that run together; None is `BATCH_TOKENS`.
            within: Makes a context manager in which the model is in the state to be asked.
            compared_at_once: Requests of a comparison that run together.
        """
        self.loaded = loaded
        self.within = within
        self.compared_at_once = compared_at_once
        self.batch_tokens = batch_tokens or BATCH_TOKENS[loaded.device.type]
        # A dict as an ordered set: each warning once.
        self._warnings: dict[str, None] = {}

    @property
    def name(self) -> str:
        """Name of the model."""
        return self.loaded.name

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""
        return tokenizer_of(self.loaded)

    @property
    def max_length(self) -> int | None:
        """Longest sequence that the configuration allows [token]."""
        return self.loaded.max_length

    @property
    def vocab_size(self) -> int:
        """Number of token ids that the model scores."""
        return self.loaded.vocab_size

    def describe(self) -> Mapping[str, Any]:
        """Return how many tokens run together."""
        return {"batch_tokens": self.batch_tokens}

    def cached(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """Return `make()`, computed once for each key and kept as long as the model."""
        return self.loaded.cached(key, make)

    def warnings(self) -> tuple[str, ...]:
        """Return a warning if requests could not share their common tokens."""
        return tuple(self._warnings)

    def answer(self, requests: Sequence[Request]) -> Iterator[tuple[int, Answer]]:
        """Yield the index of each request and its answer."""
        with self.within(), split(self.loaded) as model:
            yield from answer(model, requests, self.batch_tokens, self._warnings.setdefault)

    def of(
        self, loaded: LoadedModel, within: Become = nullcontext, compared_at_once: int = 1
    ) -> "LocalEngine":
        """Return an engine of the same settings for another model or another state of this one."""
        return LocalEngine(loaded, self.batch_tokens, within, compared_at_once)

    @property
    def is_as_loaded(self) -> bool:
        """Whether neither a recipe nor a variant changes how the loaded model answers."""
        if self.compared_at_once > 1:
            return False
        # Bound methods of one object are equal, but not identical.
        if self.within == self.loaded.unquantized:
            return True
        return self.within is nullcontext and not self.loaded.swaps and not self.loaded.hooks

    def baseline(self, task: str) -> Baseline:
        """Return `model.baseline`, or else the unquantized form of the model."""
        return baselines.find(self, task)

    def unquantized(self, task: str) -> Baseline:
        """Return the model without its recipe; for a quantized checkpoint, `model.baseline`."""
        return baselines.unquantized(self, task)

    def variants(self) -> Iterator[Variant]:
        """Yield engines of another type, another attention kernel and two requests at a time."""
        return variants(self)

    def compare(self, other: Engine, requests: Sequence[Score]) -> Iterator[tuple[int, Compared]]:
        """Yield the index of each request, in order, and its statistics.

        Raises:
            UnsupportedEngine: `other` is no model in this process.
        """
        if not isinstance(other, LocalEngine):
            raise UnsupportedEngine(
                f"the engine local compares with an engine local, got {other.label}"
            )
        return compare(self, other, requests)

    @property
    def dtype(self) -> str:
        """Type of the weights, such as `bfloat16`."""
        return self.loaded.dtype_name

    @property
    def weights(self) -> Weights:
        """`pretrained`, or `random` where only the shapes are the model's."""
        return self.loaded.weights

    def kept(
        self, requests: Sequence[Score], decode: int
    ) -> Iterator[tuple[int, KeptDistributions]]:
        """Yield the index of each request, in order, and its distributions."""
        return kept_logits.kept(self, requests, decode)

    def recorded(self, request: Score, decode: int) -> Calls:
        """Return the calls of every quantized linear layer during a request."""
        return layers.recorded(self, request, decode)

    def layer_differences(self, calls: Calls) -> list[LayerDifference]:
        """Return the differences of every layer in the model's order, `prompt` before `decode`."""
        return layers.layer_differences(self.loaded, calls)

    def time(self, workload: Workload) -> AbstractContextManager[TimedModel]:
        """Context manager: the model, which answers the workload's request."""
        return timed(self, workload)


@dataclass(frozen=True, kw_only=True, slots=True)
class Local:
    """The whole model in this process."""

    label: ClassVar[str] = "local"
    starts: ClassVar[type[Engine]] = LocalEngine
    model_name: ClassVar[None] = None

    batch_tokens: int | None = None
    """Tokens that run together; None is 2048 on a CPU and 16384 on a GPU."""

    def __post_init__(self) -> None:
        """Check the bounds of fields."""
        check_bounds(self, batch_tokens=1)

    def facts(self) -> dict[str, Any]:
        """Return no facts: the model is identified by itself."""
        return {}

    def start(
        self,
        loaded: LoadedModel | None,
        device: torch.device,  # noqa: ARG002 - the model's
    ) -> AbstractContextManager[LocalEngine]:
        """Context manager: an engine for a loaded model."""
        assert loaded is not None  # noqa: S101 - `model_name` says that it takes one
        return nullcontext(LocalEngine(loaded, self.batch_tokens))
