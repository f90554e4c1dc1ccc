"""What an engine must be able to do for `parity`: compare two forms of one recipe.

A recipe is made in the loaded model fake-quantized first, then with real kernels. So the two forms
never exist at the same time, and comparing them has two steps: an engine keeps the distributions of
one form, and compares them with those of the other form later.

    kept = engine.kept(requests, decode)       the model fake-quantized
    ...                                        the runner puts the real kernels in place
    real = engine.kept(requests, decode)       real.compare(kept) for each request

Only task `parity` needs this; an engine without it cannot be asked for parity.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol, Self, TypeAlias, runtime_checkable

from harness.engines.requests import Compared, Score

Calls: TypeAlias = Mapping[str, Sequence[Any]]
"""Path of a layer -> its calls in order: activation and output, as the engine keeps them."""


class LayerDifference(NamedTuple):
    """The relative difference of a real layer from its fake-quantized counterpart."""

    layer: str
    """Path of the layer in the model."""
    part: Literal["prompt", "decode"]
    """Calls with many rows, or with one row."""
    value: float
    """|y_real - y_fake| / |y_fake|, Frobenius norms."""


class KeptDistributions(Protocol):
    """Protocol: the T distributions before the tokens of a continuation, in main memory."""

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

    def kept(
        self, requests: Sequence[Score], decode: int
    ) -> Iterator[tuple[int, KeptDistributions]]:
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
