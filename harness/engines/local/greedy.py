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
        InvalidResult: The largest logit of a row is NaN or infinite.
    """
    ends = end_ids(loaded)
    made: dict[int, list[int]] = {index: [] for index in tokens}
    newest = list(tokens.values())
    while made:
        going = []
        for row, (index, token) in enumerate(zip([*made], newest, strict=True)):
            request = requests[index]
            assert isinstance(request, Generate)  # noqa: S101 - no other request has rows
            if token not in ends and request.max_new_tokens:
                made[index].append(token)
                if not _is_over(loaded, request, made[index]):
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
        InvalidResult: The largest logit is NaN or infinite.
    """
    tokens_B = logits_BV.argmax(dim=-1)
    # argmax takes a NaN for the largest. A smaller logit may be -inf: it has probability 0.
    largest_B = logits_BV.gather(-1, tokens_B[:, None])[:, 0]
    bad = largest_B[~largest_B.isfinite()]
    if len(bad):
        found = str(float(bad[0])).replace("nan", "NaN")
        raise InvalidResult(
            f"every logit must be finite, got {found} while decoding; "
            "the recipe destroys this model, or the weights are damaged"
        )
    return tokens_B


def _is_over(loaded: LoadedModel, request: Generate, made: Sequence[int]) -> bool:
    """Say whether a row has all its new tokens, or a stop text has ended it."""
    if len(made) >= request.max_new_tokens:
        return True
    # Only a request with stop texts needs its text.
    return bool(request.stop) and request.is_ended_by(str(loaded.tokenizer.decode([*made])))
