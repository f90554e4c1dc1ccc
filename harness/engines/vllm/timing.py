"""Times of a batch of requests, from vLLM's own stamps.

    prefill   from the first request scheduled to the last first token      B S tokens
    decode    from the first token of the batch to its last                 B (G - 1) tokens
    TPOT      (last token - first token) / (G - 1), mean over the requests
    TTFT      from arrival to first token, of the slowest request, with queue and tokenization

vLLM stamps the first and the last token of a request, not those between them. Its `arrival_time` is
of another clock than the stamps, and is not used.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from harness.engines.vllm.prompts import Prompt
from harness.errors import InvalidResult


class Stamps(NamedTuple):
    """When vLLM scheduled and answered a request; times of one monotonic clock [s]."""

    scheduled: float
    first_token: float
    last_token: float
    latency: float | None
    """From arrival to the first token; None in versions that do not report it [s]."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchTimes:
    """The times of a batch."""

    prefill_s: float
    decode_s: float
    tpot_s: float
    """Mean over the requests [s/token]."""
    total_s: float
    """From the first request scheduled to the last token [s]."""
    ttft_s: float | None
    """Of the slowest request; None where vLLM does not report it [s]."""
    first_tokens_apart_s: float
    """Between the first and the last request's first token; near 0 if one step prefilled all [s]."""


def needs(batch: int, prompt_tokens: int) -> Mapping[str, Any]:
    """Return arguments of `vllm.LLM` for timing a batch.

    One step prefills the whole batch, so that the phases do not overlap. Prefixes are not cached,
    since every round has the same prompts.
    """
    return {
        "enable_prefix_caching": False,
        "max_num_seqs": batch,
        "max_num_batched_tokens": batch * prompt_tokens,
    }


def timed_prompt(ids: Sequence[int], new_tokens: int) -> Prompt:
    """Return a prompt that is continued by exactly `new_tokens` tokens.

    Ends of text are ignored. `min_tokens` would forbid them, and so change what is decoded.
    """
    sampling = {
        "temperature": 0.0,
        "max_tokens": new_tokens,
        "ignore_eos": True,
        "detokenize": False,
    }
    return Prompt(tuple(ids), sampling)


def stamps_of(prompt: Prompt, output: Mapping[str, Any]) -> Stamps | None:
    """Return the stamps in an output, or None if this version of vLLM lacks one.

    Raises:
        InvalidResult: The output is not that of the whole prompt, or has another length.
    """
    prompt.check(output)
    most = prompt.sampling["max_tokens"]
    if len(output["tokens"]) != most:
        raise InvalidResult(
            f"vLLM must decode {most} tokens for each prompt, got {len(output['tokens'])} "
            f"(finish_reason {output['finish_reason']}); raise engine.max_model_len if it is set"
        )
    names = ("scheduled_ts", "first_token_ts", "last_token_ts", "first_token_latency")
    # A stamp is 0 until it is set, and null in versions that do not keep it.
    scheduled, first, last, latency = (output["stamps"][name] or None for name in names)
    if None in (scheduled, first, last):
        return None
    return Stamps(scheduled, first, last, latency)


def batch_times(batch: Sequence[Stamps], new_tokens: int) -> BatchTimes:
    """Return the times of requests that ran together.

    Raises:
        InvalidResult: Stamps run backwards.
    """
    start, first = min(s.scheduled for s in batch), min(s.first_token for s in batch)
    prefilled, last = max(s.first_token for s in batch), max(s.last_token for s in batch)
    each = [(s.last_token - s.first_token) / (new_tokens - 1) for s in batch]
    latencies = [s.latency for s in batch if s.latency is not None]
    times = BatchTimes(
        prefill_s=prefilled - start,
        decode_s=last - first,
        tpot_s=sum(each) / len(each),
        total_s=last - start,
        ttft_s=max(latencies) if len(latencies) == len(batch) else None,
        first_tokens_apart_s=prefilled - first,
    )
    if min(times.prefill_s, times.decode_s, times.tpot_s) <= 0:
        raise InvalidResult(f"every phase must take longer than 0 s, got {times}")
    return times
