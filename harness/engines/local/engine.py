"""The engine `local`: a whole model in this process.

`Local` is the option of `engine=`; `LocalEngine` answers for one loaded model. A recipe changes the
loaded model in place, so the same engine answers for whatever the model is at the time. With
`within` it answers for the model in another state, such as its unquantized weights.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, TypeVar

import torch

from harness.engines.base import Engine, Kind
from harness.engines.local import interim
from harness.engines.local.split_model import split
from harness.engines.local.timed import timed
from harness.engines.requests import Answer, Request
from harness.engines.timed import TimedModel, Workload
from harness.errors import check_bounds
from harness.models.loaded import LoadedModel
from harness.models.tokens import Tokenizer, tokenizer_of

BATCH_TOKENS: Mapping[str, int] = MappingProxyType({"cpu": 2048, "cuda": 16384})
"""Tokens that run together unless `batch_tokens` says otherwise, by type of device: enough to keep
its cores busy."""
Become = Callable[[], AbstractContextManager[None]]
"""Makes a context manager in which a loaded model is in another state."""
Made = TypeVar("Made")


class LocalEngine(Engine):
    """Answers for one loaded model."""

    label: ClassVar[str] = "local"
    kinds: ClassVar[frozenset[Kind]] = frozenset({"score", "generate", "compare", "time"})

    def __init__(
        self, loaded: LoadedModel, batch_tokens: int | None = None, within: Become = nullcontext
    ) -> None:
        """Answer for a model.

        Args:
            loaded: The model.
            batch_tokens: Tokens that run together; None is `BATCH_TOKENS`.
            within: Context manager inside which the model is in the state to be asked.
        """
        self.loaded = loaded
        self.within = within
        self.batch_tokens = batch_tokens or BATCH_TOKENS[loaded.device.type]

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

    def answer(self, requests: Sequence[Request]) -> Iterator[tuple[int, Answer]]:
        """Yield the index of each request and its answer."""
        with self.within(), split(self.loaded) as model:
            yield from interim.answer(model, requests, self.batch_tokens)

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
        """Return nothing: the model identifies a run."""
        return {}

    def start(
        self,
        loaded: LoadedModel | None,
        device: torch.device,  # noqa: ARG002 - the model's
    ) -> AbstractContextManager[LocalEngine]:
        """Context manager: an engine for a loaded model."""
        assert loaded is not None  # noqa: S101 - `model_name` says that it takes one
        return nullcontext(LocalEngine(loaded, self.batch_tokens))
