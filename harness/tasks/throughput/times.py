"""Times of timed requests, from the stamps of an engine.

    prefill   from the first prompt that begins to run to the last first token     B S tokens
    decode    from the first token of the batch to its last                        B (G - 1) tokens
    total     from the first prompt that begins to run to the last token
    TTFT      of the slowest sequence
    TPOT      (last token - first token) / (G - 1), mean over the sequences

(definitions of vLLM's `benchmarks/serve.py` and of MLPerf inference). In a batch that runs as one,
TTFT is the time of prefill, and TPOT the time of decode over G - 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Self

from harness.engines.timed import Phase, Stamps, Timed
from harness.errors import InvalidResult
from harness.timing.warm_up import WarmUp

NO_STAMPS = "the engine gave no time stamps of the requests"


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """The size of one request."""

    batch: int
    """Number of sequences."""
    prompt: int
    """Tokens of each prompt."""
    new: int
    """New tokens of each sequence."""

    @property
    def steps(self) -> int:
        """Number of decode steps; the first new token belongs to prefill."""
        return self.new - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class RequestTimes:
    """The times of one request; see the module docstring."""

    prefill_s: float
    decode_s: float
    total_s: float
    tpot_s: float
    ttft_s: float | None
    """None if the engine does not know it."""
    inter_token_s: tuple[float, ...] | None
    """Inter-token latency of each decode step, in order; None if the engine lacks it [s]."""
    apart_s: float
    """Time from the first `first_token` of the batch to the last; 0 if no phases overlap [s]."""

    @classmethod
    def of(cls, sequences: Sequence[Stamps], size: Size) -> Self:
        """Return the times of a batch.

        Raises:
            InvalidResult: Stamps run backwards.
        """
        start = min(each.started for each in sequences)
        first = min(each.first_token for each in sequences)
        prefilled = max(each.first_token for each in sequences)
        last = max(each.last_token for each in sequences)
        waits = [each.ttft_s for each in sequences if each.ttft_s is not None]
        found = cls(
            prefill_s=prefilled - start,
            decode_s=last - first,
            total_s=last - start,
            tpot_s=fmean(each.last_token - each.first_token for each in sequences) / size.steps,
            ttft_s=max(waits) if len(waits) == len(sequences) else None,
            # Sequences that run apart have no decode steps in common.
            inter_token_s=sequences[0].inter_token_s if len(sequences) == 1 else None,
            apart_s=prefilled - first,
        )
        if not (found.prefill_s > 0 and found.decode_s > 0 and found.tpot_s > 0):
            raise InvalidResult(f"every phase must take longer than 0 s, got {found}")
        return found


@dataclass(frozen=True, kw_only=True, slots=True)
class SubjectTimes:
    """All timed requests of one subject."""

    size: Size
    warm_up: WarmUp
    num_rounds: int
    rounds: tuple[RequestTimes, ...]
    """Times of each round; empty if a request has no stamps."""
    energy_j: float | None
    """Energy of the device in all rounds; None where there is no counter [J]."""

    @classmethod
    def of(
        cls, size: Size, warm_up: WarmUp, rounds: Sequence[Timed], energy_j: float | None
    ) -> Self:
        """Return the times of all rounds.

        Raises:
            InvalidResult: Stamps run backwards.
        """
        stamped = [timed.sequences for timed in rounds if timed.sequences]
        return cls(
            size=size,
            warm_up=warm_up,
            num_rounds=len(rounds),
            rounds=tuple(RequestTimes.of(each, size) for each in stamped)
            if len(stamped) == len(rounds)
            else (),
            energy_j=energy_j,
        )

    def seconds(self, phase: Phase) -> list[float]:
        """Return the time of a phase in each round [s]."""
        return self.prefill_s if phase == "prefill" else self.decode_s

    @property
    def prefill_s(self) -> list[float]:
        """Time of prefill in each round [s]."""
        return [times.prefill_s for times in self.rounds]

    @property
    def decode_s(self) -> list[float]:
        """Time of all decode steps in each round [s]."""
        return [times.decode_s for times in self.rounds]

    @property
    def total_s(self) -> list[float]:
        """Time of the whole request in each round [s]."""
        return [times.total_s for times in self.rounds]

    @property
    def tpot_s(self) -> list[float]:
        """TPOT in each round [s]."""
        return [times.tpot_s for times in self.rounds]

    @property
    def ttft_s(self) -> list[float]:
        """TTFT in each round [s]; empty if it is not known in some."""
        known = [times.ttft_s for times in self.rounds if times.ttft_s is not None]
        return known if len(known) == len(self.rounds) else []

    @property
    def inter_token_s(self) -> list[float]:
        """Every inter-token latency that is known, over all rounds [s]."""
        return [latency for times in self.rounds for latency in times.inter_token_s or ()]

    @property
    def overlap(self) -> float:
        """Largest `apart_s` of a round, as a share of its decode time."""
        return max((times.apart_s / times.decode_s for times in self.rounds), default=0.0)
