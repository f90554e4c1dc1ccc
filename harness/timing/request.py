"""Time one request: the prompts at once (prefill), then token by token (decode).

    TTFT = t(first token) - t(start)       prefill and first token; the prompts are token ids
    E2E  = t(last token) - t(start)
    TPOT = (E2E - TTFT) / (G - 1)          the first of G tokens belongs to prefill

(definitions of vLLM's `benchmarks/serve.py` and of MLPerf inference). Each phase ends when the
device is done.
"""

from dataclasses import dataclass
from typing import Protocol

from harness.timing.clock import NS, Clock


class Phases(Protocol):
    """The two phases of a request; `harness.engines.local.generation.Generation` has them."""

    def prefill(self) -> object:
        """Run the prompts and choose the first new token."""

    def step(self) -> object:
        """Run one token and choose the next."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """The times of one request."""

    prefill_s: float
    """Time to first token [s]."""
    decode_s: float
    """From the first token to the last [s]."""
    inter_token_s: tuple[float, ...]
    """Inter-token latency of each decode step, in order [s]."""

    @property
    def total_s(self) -> float:
        """From start to last token [s]."""
        return self.prefill_s + self.decode_s


def time_request(phases: Phases, new_tokens: int, clock: Clock) -> Timing:
    """Run one request of `new_tokens` new tokens and return its times."""
    start = clock.now()
    phases.prefill()
    first = clock.now()
    marks = [clock.mark()]
    for _ in range(new_tokens - 1):
        phases.step()
        marks.append(clock.mark())
    end = clock.now()
    return Timing(
        prefill_s=(first - start) * NS,
        decode_s=(end - first) * NS,
        inter_token_s=tuple(interval * NS for interval in clock.intervals(marks)),
    )
