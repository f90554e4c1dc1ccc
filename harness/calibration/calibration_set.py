"""Token sequences of equal length, drawn from real text, that an unquantized model runs over."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from harness.calibration.text import calibration_text
from harness.data.source import DataSource, Text
from harness.errors import DataError, check_bounds
from harness.models.loaded import LoadedModel
from harness.models.tokens import tokenizer_of
from harness.results.record import CalibrationInfo


class Sequences(NamedTuple):
    """Token ids, and the text they are from."""

    ids: Tensor
    """int64 `[num_sequences, length]`."""
    text: Text


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationSet:
    """Windows at random places of one tokenized text; they may overlap."""

    data: DataSource
    """Where the text comes from; the run's own data if left out."""
    num_sequences: int = 32
    """Number of sequences."""
    length: int = 512
    """Length of each sequence [token]."""
    seed: int = 0
    """Seed of their places in the text."""

    def __post_init__(self) -> None:
        """Check that there is a token at least."""
        check_bounds(self, num_sequences=1, length=1)

    def text(self) -> Text:
        """Return the text that sequences are drawn from; see `harness.calibration.text`."""
        return calibration_text(self.data)

    def info(self) -> CalibrationInfo:
        """Return what identifies the sequences, without a model.

        It is part of a recipe's identity, beside the configuration: a text may change in its file.

        Raises:
            DataError: The text cannot be read.
        """
        text = self.text()
        return CalibrationInfo(
            text=text.name,
            sha256=text.sha256,
            num_sequences=self.num_sequences,
            length=self.length,
            seed=self.seed,
        )

    def draw(self, loaded: LoadedModel) -> Sequences:
        """Return the sequences; they follow from seed, text and tokenizer.

        Raises:
            DataError: A sequence is longer than the text, or than the model was made for.
        """
        text = self.text()
        ids = torch.tensor(tokenizer_of(loaded).encode(text.text).ids)
        longest = min(len(ids), loaded.max_length or len(ids))
        if self.length > longest:
            raise DataError(
                f"calibration.length must be at most {longest}, the {len(ids)} tokens of "
                f"{text.name} and the {loaded.max_length or 'any number'} that {loaded.name} was "
                f"made for, got {self.length}; lower it"
            )
        # A generator of its own: the global random state is not touched.
        generator = torch.Generator().manual_seed(self.seed)
        starts = torch.randint(
            len(ids) - self.length + 1, (self.num_sequences,), generator=generator
        )
        return Sequences(ids[starts[:, None] + torch.arange(self.length)], text)
