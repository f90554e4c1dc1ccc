"""Take the time stamps of one request: the prompts at once (prefill), then token by token (decode).

A batch runs as one, so all its sequences have the same stamps. Each phase ends when the device is
done. Between two tokens nothing waits for the device: the clock only takes a mark
(`harness.timing.clock`).
"""

from typing import Protocol

from harness.engines.timed import Stamps
from harness.timing.clock import NS, Clock


class Phases(Protocol):
    """The two phases of a request; `harness.engines.local.generation.Generation` has them."""

    def prefill(self) -> object:
        """Run the prompts and choose the first new token."""

    def step(self) -> object:
        """Run one token and choose the next."""


def time_request(phases: Phases, new_tokens: int, clock: Clock) -> Stamps:
    """Run one request of `new_tokens` new tokens; return its stamps, which begin at 0."""
    start = clock.now()
    phases.prefill()
    first = clock.now()
    marks = [clock.mark()]
    for _ in range(new_tokens - 1):
        phases.step()
        marks.append(clock.mark())
    end = clock.now()
    # Differences of integers: seconds since the machine started have too few digits for them.
    prefill_s = (first - start) * NS
    return Stamps(
        started=0.0,
        first_token=prefill_s,
        last_token=(end - start) * NS,
        ttft_s=prefill_s,
        inter_token_s=tuple(interval * NS for interval in clock.intervals(marks)),
    )
