"""What an engine must be able to do so that a real backend is measured beside its fake form.

Both forms are made in the same loaded model, one after the other, so they are never asked at the
same time. Therefore `compare` has two steps here: an engine keeps the distributions of one form,
and compares them with those of the other form later.

    kept = engine.kept(requests, decode)       the model fake-quantized
    ...                                        the runner puts the real kernels in place
    real = engine.kept(requests, decode)       real.compare(kept) for each request

Only task `parity` needs this. Other engines need not know it.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol, Self, TypeAlias, runtime_checkable

from harness.engines.requests import Compared, Score

Calls: TypeAlias = Mapping[str, Sequence[Any]]
"""Path of a layer -> its calls in order: activation and output, as the engine keeps them."""


class LayerDifference(NamedTuple):
    """The relative difference of a real layer from its fake-quantized counterpart."""

    layer: str
    part: Literal["prompt", "decode"]
    value: float


class Kept(Protocol):
    """Protocol: the distributions before each token of a continuation, in main memory."""

    def compare(self, other: Self) -> Compared:
        """Return the statistics `[T]` with `other` as the baseline."""


@runtime_checkable
class PairedEngine(Protocol):
    """Protocol: an engine whose model changes between two forms, and that compares both."""

    @property
    def dtype(self) -> str:
        """Type of the weights, such as `bfloat16`."""

    @property
    def weights(self) -> Literal["pretrained", "random"]:
        """`random` where only the shapes are the model's, and its outputs mean nothing."""

    @property
    def vocab_size(self) -> int:
        """Number of token ids that the model scores."""

    def kept(self, requests: Sequence[Score], decode: int) -> Iterator[tuple[int, Kept]]:
        """Yield the index of each request and its distributions.

        Args:
            requests: Each runs alone.
            decode: Tokens at the end of a request that run one at a time on a cache.
        """

    def recorded(self, request: Score, decode: int) -> Calls:
        """Return the calls of every quantized linear layer during a request.

        Layers that stay unquantized are the same in both forms and are not recorded.
        """

    def layer_differences(self, calls: Calls) -> list[LayerDifference]:
        """Feed each layer the recorded activations; return the differences of its outputs.

        Raises:
            InvalidResult: An output is not finite.
        """
