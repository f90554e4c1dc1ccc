"""The same model, run in ways that should not change an answer.

- `dtype`: the weights of a 16-bit model in float32, which shows the error of 16-bit arithmetic. A
  float32 model is rounded to bfloat16 instead, weights and arithmetic.
- `attention`: the plain ("eager") attention kernel instead of the fused one, or the reverse.
- `batch`: two requests at a time instead of one, and half as many tokens where prompts are shared.
  A matmul of another shape sums in another order.

The model is not changed: after each pass its own kernel and its original parameters are back in
place. Memory: `dtype` takes a second copy of the parameters, and the eager kernel holds all scores
of a layer, heads x length^2.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cache, partial
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import nn

from harness.engines.base import Engine, Kind, Variant
from harness.engines.requests import Answer, Compared, Request, Score
from harness.errors import UnsupportedEngine
from harness.models.architecture import attention
from harness.models.loaded import LoadedModel
from harness.models.tokens import Tokenizer

if TYPE_CHECKING:
    from harness.engines.local.engine import LocalEngine

AT_ONCE = 2
"""Requests that run together in the variant `batch`."""
UNSUPPORTED = (ImportError, RuntimeError, ValueError)
"""What torch and transformers raise for a kernel or type that a model or machine lacks."""


class VariantEngine(Engine):
    """An engine that may be unsupported here, and that can only be compared."""

    label = "local"
    kinds: ClassVar[frozenset[Kind]] = frozenset({"compare"})

    def __init__(self, engine: "LocalEngine") -> None:
        """Answer for the model of `engine`."""
        self.engine = engine

    def compare(self, other: Engine, requests: Sequence[Score]) -> Iterator[tuple[int, Compared]]:
        """Yield the index of each request and its statistics.

        Raises:
            UnsupportedEngine: The model or the machine lacks a kernel or a type.
        """
        with _explained():
            yield from self.engine.compare(other, requests)


class AskedVariant(VariantEngine):
    """A variant of the model's own type, which can be asked for scores too."""

    kinds = frozenset({"compare", "score"})

    @property
    def name(self) -> str:
        """Name of the model."""
        return self.engine.name

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""
        return self.engine.tokenizer

    @property
    def max_length(self) -> int | None:
        """Longest sequence that the configuration allows [token]."""
        return self.engine.max_length

    def answer(self, requests: Sequence[Request]) -> Iterator[tuple[int, Answer]]:
        """Yield the index of each request and its answer.

        Raises:
            UnsupportedEngine: The model or the machine lacks a kernel or a type.
        """
        with _explained():
            yield from self.engine.answer(requests)


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except UNSUPPORTED as reason:
        raise UnsupportedEngine(
            f"unsupported by this model or machine: {type(reason).__name__}: {reason}"
        ) from reason


def variants(engine: "LocalEngine") -> Iterator[Variant]:
    """Yield the variants of an engine, the one with the largest effect first."""
    loaded = engine.loaded
    dtype = torch.bfloat16 if loaded.dtype is torch.float32 else torch.float32
    kernel = "sdpa" if loaded.attention == "eager" else "eager"
    in_dtype = engine.of(loaded, within=in_other_dtype(loaded, dtype))
    yield Variant("dtype", str(dtype).removeprefix("torch."), VariantEngine(in_dtype))
    del in_dtype  # with its copy of the parameters
    with_kernel = engine.of(loaded, within=partial(attention, loaded.module, kernel))
    yield Variant("attention", kernel, AskedVariant(with_kernel))
    in_batches = engine.of(loaded, compared_at_once=AT_ONCE)
    in_batches.batch_tokens = max(1, engine.batch_tokens // 2)
    yield Variant("batch", str(AT_ONCE), AskedVariant(in_batches))


def in_other_dtype(
    loaded: LoadedModel, dtype: torch.dtype
) -> Callable[[], AbstractContextManager[None]]:
    """Return a function that makes a context manager: inside, parameters have another type.

    The parameters are copied when it is entered first. Buffers such as rotary frequencies stay as
    they are, and so do parameters that the model keeps in a type of their own.
    """
    places = [
        (owner, name, parameter)
        for owner in loaded.module.modules()
        for name, parameter in owner.named_parameters(recurse=False)
        if parameter.dtype is loaded.dtype
    ]

    @cache  # by identity, so that tied parameters stay tied
    def other(parameter: nn.Parameter) -> nn.Parameter:
        return nn.Parameter(parameter.detach().to(dtype), requires_grad=False)

    @contextmanager
    def become() -> Iterator[None]:
        try:
            for owner, name, parameter in places:
                setattr(owner, name, other(parameter))
            yield
        finally:
            for owner, name, parameter in places:
                setattr(owner, name, parameter)

    return become
