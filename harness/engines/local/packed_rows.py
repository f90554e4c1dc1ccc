"""The layout of a batch of rows that follow one shared prefix.

Rows are packed: their tokens stand one after another in one sequence `[1, N]`, without padding.
Each token has the position that it has in its whole prompt. For a prefix of 4 tokens and rows
`[a b c]` and `[d e]`:

    packed      a b c d e        N = 5
    positions   4 5 6 4 5
    places      [[0 1 2]         `[B, S]`: where a row's tokens stand in the packed sequence;
                 [3 4 0]]        padding points to place 0
    is_token    [[1 1 1]
                 [1 1 0]]

Shapes: B rows, S tokens of the longest row, N tokens of all rows, P tokens of the prefix, T tokens
of a row with what was appended; H query heads, G key heads, D the size of a head.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor


class Prefix(NamedTuple):
    """Keys and values of a shared prefix."""

    length: int
    layers: tuple[tuple[Tensor, Tensor], ...]
    """Keys and values `[1, G, P, D]` of each layer."""


@dataclass(kw_only=True, slots=True, eq=False)
class PackedRows:
    """The rows of a batch, and their keys and values if tokens are appended later."""

    prefix: Prefix
    lengths: Tensor
    """Tokens of each row, `[B]`."""
    is_token: Tensor
    """False for padding, `[B, S]`."""
    places: Tensor
    """Index of each token in the packed sequence, `[B, S]`."""
    keep: bool = False
    """Keep keys and values of the rows, so that tokens can be appended."""
    own: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """Layer -> kept keys and values of the rows, `[B, G, T, D]`."""
    steps: int = 0
    """Tokens appended to each row."""

    @classmethod
    def make(cls, prefix: Prefix, lengths: Sequence[int]) -> "PackedRows":
        """Lay out rows of some lengths."""
        lengths_B = torch.tensor(lengths, device=prefix.layers[0][0].device)
        columns_S = torch.arange(max(lengths), device=lengths_B.device)
        # `[S] < [B, 1]` -> `[B, S]`
        is_token_BS = columns_S < lengths_B[:, None]
        # A row begins where the rows before it end.
        starts_B1 = (lengths_B.cumsum(0) - lengths_B)[:, None]
        places_BS = (starts_B1 + columns_S).where(is_token_BS, torch.zeros_like(columns_S))
        return cls(prefix=prefix, lengths=lengths_B, is_token=is_token_BS, places=places_BS)

    def offsets(self) -> Tensor:
        """Return the index in its row of every token of the current pass, `[N]`."""
        if self.steps:
            return self.lengths + self.steps - 1  # one appended token a row
        # A boolean mask flattens row by row, which is the packed order.
        return self.columns()[self.is_token]

    def columns(self) -> Tensor:
        """Return the index in its row of every place, padding included, `[B, S]`."""
        width = self.is_token.shape[1]
        return torch.arange(width, device=self.is_token.device).expand_as(self.is_token)
