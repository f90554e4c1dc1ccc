"""Sequences of real text, all equally long, that a method runs a float model over."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from harness.calibration.text import calibration_text
from harness.data.source import DataSource, Text
from harness.errors import DataError
from harness.models.loaded import LoadedModel
from harness.models.tokens import tokenize
from harness.results.record import CalibrationInfo


class Sequences(NamedTuple):
    """Token ids, and where they are from."""

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
    """Tokens of each sequence."""
    seed: int = 0
    """Seed of their places in the text."""

    def __post_init__(self) -> None:
        """Refuse sizes that show nothing."""
        if self.num_sequences < 1 or self.length < 1:
            raise ValueError(
                f"num_sequences and length must be >= 1, got {self.num_sequences} and {self.length}"
            )

    def text(self) -> Text:
        """Return the text that sequences are drawn from; see `harness.calibration.text`."""
        return calibration_text(self.data)

    def info(self) -> CalibrationInfo:
        """Return what identifies the sequences, without a model: the part of a recipe's identity that is not configuration.

        Raises:
            DataError: The text cannot be had.
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
        """Return the sequences, the same for the same seed, text and tokenizer.

        Raises:
            DataError: The text is too short, or a sequence longer than the model was made for.
        """
        text = self.text()
        ids = torch.tensor(tokenize(text.text, loaded).ids)
        longest = min(len(ids), loaded.max_length or len(ids))
        if self.length > longest:
            raise DataError(
                f"calibration.length must be at most {longest}, the {len(ids)} tokens of {text.name} and the "
                f"{loaded.max_length or 'any number'} that {loaded.name} was made for, got {self.length}; lower it"
            )
        generator = torch.Generator().manual_seed(self.seed)
        starts = torch.randint(
            len(ids) - self.length + 1, (self.num_sequences,), generator=generator
        )
        return Sequences(ids[starts[:, None] + torch.arange(self.length)], text)
