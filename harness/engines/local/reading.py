"""Read what requests ask for off the hidden states of a forward pass.

A `Score` reads ln p of each token of its continuation at the token before it. A `Generate` reads
the most likely token after its context. Requests that read at the same place share its logits: the
four letters of an MMLU question, and a `Generate` of the same prompt. Logits exist for a chunk of
places at a time.

    ids          a b c d e       Score((a b), (c d e)); its sequence is a b c d
    reads at       b c d         positions 1 to 3
    targets        c d e
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from harness.engines.local.greedy import most_likely
from harness.engines.local.log_softmax import target_log_probs
from harness.engines.local.split_model import SplitModel
from harness.engines.requests import Request, Score, Scored
from harness.engines.tree import Ints


class Span(NamedTuple):
    """Consecutive positions of a request, at consecutive places of a forward pass."""

    request: int
    """Index of the request."""
    first: int
    """First position."""
    last: int
    """Last position."""
    place: int
    """Place of the first position."""

    def moved(self, by: int) -> "Span":
        """Return the same span with its place increased by `by`."""
        return self._replace(place=self.place + by)


def positions_of(request: Request) -> tuple[int, int]:
    """Return the first and the last position that a request reads at."""
    first = len(request.context) - 1
    return first, first + len(request.continuation) - 1 if isinstance(request, Score) else first


class Reader:
    """Reads for some requests, and collects what it has read."""

    def __init__(self, model: SplitModel, requests: Sequence[Request]) -> None:
        self._model = model
        self._requests = requests
        self._scored: dict[int, Scored] = {}

    def read(self, hidden_NH: Tensor, spans: Iterable[Span]) -> dict[int, int]:
        """Read some spans; return the next token of every `Generate` among them.

        Raises:
            InvalidResult: A logit after the context of a `Generate` is NaN.
        """
        scores: list[Span] = []
        generates: list[Span] = []
        for span in spans:
            scored = isinstance(self._requests[span.request], Score)
            (scores if scored else generates).append(span)
        if not scores and not generates:
            return {}
        places, targets = self._targets(scores)
        ends = np.array([span.place for span in generates], np.int64)
        log_probs, is_top, tokens = _read(self._model, hidden_NH, places, targets, ends)
        start = 0
        for span in scores:
            found = self._found(span.request)
            stop = start + span.last - span.first + 1
            first = span.first - positions_of(self._requests[span.request])[0]
            into = slice(first, first + stop - start)
            found.log_probs[into], found.is_top[into] = log_probs[start:stop], is_top[start:stop]
            start = stop
        return dict(zip((span.request for span in generates), tokens, strict=True))

    def take(self, requests: Iterable[int]) -> Iterator[tuple[int, Scored]]:
        """Yield the answers to the scores among some requests, all of whose spans were read."""
        for index in requests:
            if index in self._scored:
                yield index, self._scored.pop(index)

    def _targets(self, spans: Sequence[Span]) -> tuple[Ints, Ints]:
        """Return the place and the token of each log-probability."""
        places, targets = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for span in spans:
            request = self._requests[span.request]
            assert isinstance(request, Score)  # noqa: S101 - the caller's choice
            start = span.first - positions_of(request)[0]
            count = span.last - span.first + 1
            places.append(np.arange(span.place, span.place + count))
            targets.append(np.array(request.continuation[start : start + count], np.int64))
        return np.concatenate(places), np.concatenate(targets)

    def _found(self, index: int) -> Scored:
        """Return the answer to a `Score` so far."""
        if index not in self._scored:
            request = self._requests[index]
            assert isinstance(request, Score)  # noqa: S101 - the caller's choice
            size = len(request.continuation)
            self._scored[index] = Scored(np.empty(size), np.empty(size, bool))
        return self._scored[index]


def _read(
    model: SplitModel, hidden_NH: Tensor, places: Ints, targets: Ints, ends: Ints
) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Read the logits of some places.

    Args:
        model: The model.
        hidden_NH: Hidden states.
        places: Places whose next token is scored, `[M]`; a place may come several times.
        targets: The token that is scored at each of them, `[M]`.
        ends: Places whose most likely next token is wanted.

    Returns:
        ln p of each target [nat], whether no other token is more likely, and the tokens at `ends`.

    Raises:
        InvalidResult: The largest logit at one of `ends` is NaN or infinite.
    """
    device = hidden_NH.device
    # Logits of a place are computed once.
    read, row_of = np.unique(np.concatenate([places, ends]), return_inverse=True)
    rows, ends = row_of[: len(places)], row_of[len(places) :]
    # `target_log_probs` takes rows in rising order.
    order, end_order = np.argsort(rows, kind="stable"), np.argsort(ends, kind="stable")
    log_probs, is_top = np.empty(len(places)), np.empty(len(places), bool)
    tokens = np.empty(len(ends), np.int64)
    row = 0
    for hidden in model.chunks(hidden_NH[torch.from_numpy(read).to(device)]):
        logits = model.logits(hidden)
        stop = row + len(hidden)
        some = _between(rows, order, row, stop)
        if len(some):
            asked = torch.from_numpy(np.stack([rows[some] - row, targets[some]])).to(device)
            found = target_log_probs(logits, *asked)
            log_probs[some], is_top[some] = (x.cpu().numpy() for x in found)
        some = _between(ends, end_order, row, stop)
        if len(some):
            index = torch.from_numpy(ends[some] - row).to(device)
            tokens[some] = most_likely(logits[index]).cpu().numpy()
        row = stop
    return log_probs, is_top, tokens.tolist()


def _between(rows: Ints, order: Ints, start: int, stop: int) -> Ints:
    """Return the indices of the rows from `start` to before `stop`."""
    first, last = np.searchsorted(rows[order], [start, stop])
    return order[first:last]
