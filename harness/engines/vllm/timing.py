"""Time a request by vLLM's own stamps.

vLLM stamps when it scheduled a request, and when its first and its last token came; the tokens
between have no stamps. All stamps are of one monotonic clock; `arrival_time` is of another clock
and is not used. A version of vLLM that lacks a stamp gives no times at all.
"""

import time
from collections.abc import Mapping
from typing import Any

from harness.engines.timed import Stamps, Timed, TimedModel, Workload
from harness.engines.vllm.prompts import Prompt
from harness.engines.vllm.server import Server
from harness.engines.vllm.worker import STAMPS
from harness.errors import InvalidResult


class TimedVllm(TimedModel):
    """The model that vLLM has loaded, to be timed with one request."""

    def __init__(self, server: Server, workload: Workload, device: str) -> None:
        """Load the model for this workload."""
        # `ignore_eos` lets decoding go on behind an end-of-text token. `min_tokens` would forbid
        # the token, and so change what is decoded.
        sampling: dict[str, Any] = {
            "temperature": 0.0,
            "max_tokens": workload.new_tokens,
            "ignore_eos": True,
            "detokenize": False,
        }
        self._prompts = [Prompt(ids, sampling) for ids in workload.prompts]
        self._device = device
        self._server = server
        server.load(
            {
                # Every round has the same prompts.
                "enable_prefix_caching": False,
                # One step prefills the whole batch, so that the phases do not overlap.
                "max_num_seqs": len(workload.prompts),
                "max_num_batched_tokens": sum(len(ids) for ids in workload.prompts),
            }
        )

    @property
    def device(self) -> str:
        """The type of device that vLLM is built for."""
        return self._device

    @property
    def how(self) -> str:
        """The prefix cache is off, and vLLM takes the stamps."""
        return "prefix-caching=no|stamps=vllm"

    @property
    def runs_here(self) -> bool:
        """False: another process runs the model."""
        return False

    def request(self) -> Timed:
        """Answer the request once."""
        begun = time.perf_counter()
        outputs = self._server.run_batch(self._prompts)
        whole_s = time.perf_counter() - begun
        stamps = [_stamps(*pair) for pair in zip(self._prompts, outputs, strict=True)]
        known = tuple(each for each in stamps if each is not None)
        return Timed(sequences=known if len(known) == len(stamps) else None, whole_s=whole_s)


def _stamps(prompt: Prompt, output: Mapping[str, Any]) -> Stamps | None:
    """Return the stamps of an output, or None if this version of vLLM lacks one.

    Raises:
        InvalidResult: vLLM ran another prompt, or decoded another number of tokens.
    """
    prompt.check(output)
    most = prompt.sampling["max_tokens"]
    if len(output["tokens"]) != most:
        raise InvalidResult(
            f"vLLM must decode {most} tokens for each prompt, got {len(output['tokens'])} "
            f"(finish_reason {output['finish_reason']}); raise engine.max_model_len if it is set"
        )
    # A stamp is 0 until it is set, and null in versions that do not keep it.
    started, first, last, latency = (output["stamps"][name] or None for name in STAMPS)
    if started is None or first is None or last is None:
        return None
    return Stamps(started, first, last, ttft_s=latency)
