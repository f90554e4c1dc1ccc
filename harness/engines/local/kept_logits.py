"""Keep the float32 logits of requests in main memory, to be compared with other logits later.

The last `decode` tokens that run do so one at a time on a cache, because many kernels take another
path for one row. The last token of a request is never run.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from harness.engines.local.decodable import cache_argument
from harness.engines.local.kl_divergence import compare_logits
from harness.engines.local.split_model import split
from harness.engines.requests import Compared, Score
from harness.models.loaded import LoadedModel

if TYPE_CHECKING:
    from harness.engines.local.engine import LocalEngine


@dataclass(frozen=True, eq=False, slots=True)
class KeptLogits:
    """The float32 logits of one request."""

    logits: Tensor
    """`[T, V]`, before each token of the continuation, in main memory."""
    targets: Tensor
    """The continuation, `[T]`."""
    device: torch.device
    """Where logits are compared."""

    def compare(self, other: Self) -> Compared:
        """Return the statistics `[T]` with `other` as the baseline."""
        given = self.logits, other.logits, self.targets
        return compare_logits(*(each.to(self.device) for each in given))


def kept(
    engine: "LocalEngine", requests: Sequence[Score], decode: int
) -> Iterator[tuple[int, KeptLogits]]:
    """Yield the index of each request, in order, and its logits."""
    loaded = engine.loaded
    with split(loaded):
        for index, request in enumerate(requests):
            with engine.within():
                logits_SV = forward(loaded, request, decode)
            scored_TV = logits_SV[len(request.context) - 1 :].cpu()
            yield index, KeptLogits(scored_TV, torch.tensor(request.continuation), loaded.device)


def forward(loaded: LoadedModel, request: Score, decode: int) -> Tensor:
    """Return the logits `[L - 1, V]` of a request of L tokens; inside `split` they are float32."""
    ids_S = torch.tensor([*request.context, *request.continuation[:-1]], device=loaded.device)
    first = len(ids_S) - decode
    output = loaded.module(ids_S[None, :first], use_cache=decode > 0)
    parts = [output.logits[0]]
    name = cache_argument(loaded.module) if decode else ""
    for place in range(first, len(ids_S)):
        token_11, cache = ids_S[None, place : place + 1], getattr(output, name)
        output = loaded.module(token_11, use_cache=True, **{name: cache})
        parts.append(output.logits[0])
    return torch.cat(parts)
