"""Sends a record to the sinks of a run, after it is on file."""

from collections.abc import Sequence
from dataclasses import dataclass

from harness import signals
from harness.errors import OutputError
from harness.messages import in_one_line
from harness.results.store import Stored
from harness.sinks.card import KEY, CardTarget
from harness.sinks.facts import Tracker, facts_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Sinks:
    """Where the record of a run goes beside its file; by default nowhere."""

    tracker: Tracker | None = None
    card: CardTarget | None = None

    def send(self, stored: Stored, sentences: Sequence[str]) -> None:
        """Send a record.

        Args:
            stored: The record, with status `ok`.
            sentences: What it says beside the baseline.

        Raises:
            OutputError: A sink failed. The record is on file all the same.
        """
        if self.tracker is not None:
            tracker = self.tracker
            try:
                tracker.send(facts_of(stored, sentences))
            except Exception as reason:  # packages of others raise what they like
                raise _failed(f"track={tracker.label}", stored, reason) from reason
        if self.card is not None:
            try:
                self.card.send(stored)
            except Exception as reason:  # a card that a user edited may hold anything
                raise _failed(f"{KEY}={self.card.repository}", stored, reason) from reason


def _failed(key: str, stored: Stored, reason: Exception) -> BaseException:
    """Return the error to raise: a signal, or that the record is on file and was not sent."""
    if signals.received() is not None:
        return reason
    return OutputError(
        f"{key} must get the record, got {type(reason).__name__}: {in_one_line(str(reason))}; "
        f"the record is on file ({stored.path}): repeat the command to send it"
    )
