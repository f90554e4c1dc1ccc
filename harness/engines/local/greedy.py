"""Greedy decoding of many rows that end at different times.

A row ends at an end-of-text token, after `max_new_tokens`, or once a stop text stands in its
decoded text behind other text than white space. Rows that have ended leave the batch.

`GrowingRows` run a step: `decode_rows.TreeRows` with keys that are kept, and
`whole_sequences.WholeRows` with all tokens again.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from harness.engines.requests import Generate, Generated, Request
from harness.errors import InvalidResult
from harness.models.loaded import LoadedModel
from harness.models.tokens import end_ids


class GrowingRows(Protocol):
    """Protocol: rows of token ids, one for each prompt, that grow by a token a step."""

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all other rows."""

    def append(self, tokens_B: Tensor) -> Tensor:
        """Append a token to each row; return the float32 logits `[B, V]` after it."""


def decode(
    loaded: LoadedModel, requests: Sequence[Request], tokens: Mapping[int, int], rows: GrowingRows
) -> Iterator[tuple[int, Generated]]:
    """Yield the index of each row's request and its answer, as rows end.

    Args:
        loaded: The model.
        requests: The requests, some of which are `Generate`.
        tokens: First token of each continuation by the index of its request, in the order of rows.
        rows: The rows behind their prompts.

    Raises:
        InvalidResult: A logit is NaN.
    """
    ends = end_ids(loaded)
    made: dict[int, list[int]] = {index: [] for index in tokens}
    newest = list(tokens.values())
    while made:
        going = []
        for row, (index, token) in enumerate(zip([*made], newest, strict=True)):
            if token not in ends:
                made[index].append(token)
                if not _is_over(loaded, requests[index], made[index]):
                    going.append(row)
                    continue
            yield index, Generated(tuple(made.pop(index)))
        if not made:
            return
        if len(going) < len(newest):
            rows.keep(going)
        last = torch.tensor([row[-1] for row in made.values()])
        newest = most_likely(rows.append(last)).tolist()


def most_likely(logits_BV: Tensor) -> Tensor:
    """Return the most likely token of each row, `[B]`.

    Raises:
        InvalidResult: A logit is NaN.
    """
    if logits_BV.isnan().any():  # argmax would take a NaN for the largest
        raise InvalidResult(
            "every logit must be finite, got NaN while decoding; "
            "the recipe destroys this model, or the weights are damaged"
        )
    return logits_BV.argmax(dim=-1)


def _is_over(loaded: LoadedModel, request: Request, made: Sequence[int]) -> bool:
    """Say whether a row has all its new tokens, or a stop text has ended it."""
    assert isinstance(request, Generate)  # noqa: S101 - no other request has rows
    if len(made) >= request.max_new_tokens:
        return True
    # Only a request with stop texts needs its text.
    return bool(request.stop) and request.is_ended_by(str(loaded.tokenizer.decode([*made])))
