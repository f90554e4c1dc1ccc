"""One request, timed: the prompts at once, then token by token.

    TTFT = t(first token) - t(start)       prefill, with the first token; the prompts are token ids already
    E2E  = t(last token) - t(start)
    TPOT = (E2E - TTFT) / (G - 1)          the first of G tokens belongs to prefill

(the definitions of vLLM's `benchmarks/serve.py` and of MLPerf inference). Waiting for the device ends both phases.
"""

from dataclasses import dataclass
from typing import Protocol

from harness.timing.clock import NS, Clock


class Phases(Protocol):
    """What is timed; `harness.engines.local.generation.Generation` is one."""

    def prefill(self) -> object:
        """Run the prompts; their first token."""

    def step(self) -> object:
        """Run one token."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """What one request took."""

    prefill_s: float
    """Time to first token [s]."""
    decode_s: float
    """From the first token to the last [s]."""
    gaps_s: tuple[float, ...]
    """Between tokens, in order [s]."""

    @property
    def total_s(self) -> float:
        """From start to last token [s]."""
        return self.prefill_s + self.decode_s


def time_request(phases: Phases, new_tokens: int, clock: Clock) -> Timing:
    """Run one request of `new_tokens` tokens, and return what it took."""
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
        gaps_s=tuple(gap * NS for gap in clock.gaps(marks)),
    )
