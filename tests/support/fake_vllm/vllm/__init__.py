"""A stand-in for vLLM, after its documented interface and with the standard library alone, so that a worker starts at once.

It runs a bigram model: the file `bigram.json` of the folder has the logits of the next token by the token before, and the text of
each token. Environment variables tell it what to do wrong (`FAKE_VLLM`) and where to write what it was asked (`FAKE_VLLM_LOG`).
"""

import itertools
import json
import math
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import SimpleNamespace

__version__ = "0.0.fake"
TOLD = json.loads(os.environ.get("FAKE_VLLM", "{}"))
QUEUED_S, PREFILL_S, STEP_S, LATENCY_S = 0.5, 0.25, 0.01, 0.4
"""What its clock says; `LATENCY_S` counts from arrival, on another clock."""


def write_down(**what: object) -> None:
    if path := os.environ.get("FAKE_VLLM_LOG"):
        with Path(path).open("a") as file:
            file.write(json.dumps(what) + "\n")


@dataclass(kw_only=True)
class SamplingParams:
    """The arguments that may be given, with the defaults of vLLM."""

    temperature: float = 1.0
    max_tokens: int = 16
    ignore_eos: bool = False
    stop: list[str] = field(default_factory=list)
    stop_token_ids: list[int] = field(default_factory=list)
    detokenize: bool = True
    prompt_logprobs: int | None = None
    logprob_token_ids: list[int] | None = None


class LLM:
    def __init__(self, model: str, *, disable_log_stats: bool = True, **arguments: object) -> None:
        print("chatter of vLLM, which is no answer")  # noqa: T201
        os.write(1, b"and of its C++ code\n")
        if refused := TOLD.get("refuse"):
            raise ValueError(refused)
        write_down(load=arguments | {"model": model, "disable_log_stats": disable_log_stats})
        self.stamped = not disable_log_stats and TOLD.get("stamped", True)
        found = json.loads(Path(model, "bigram.json").read_text())
        self.logits, self.texts, self.eos = found["logits"], found["texts"], found["eos"]

    def generate(
        self,
        prompts: list[dict[str, list[int]]],
        sampling_params: list[SamplingParams],
        *,
        use_tqdm: bool,
    ) -> list[SimpleNamespace]:
        assert not use_tqdm
        if TOLD.get("die"):
            os.write(2, b"a last word\n")
            os._exit(7)
        if seconds := TOLD.get("sleep"):
            write_down(sleeps=os.getpid())
            __import__("time").sleep(seconds)
        write_down(run=[asdict(each) for each in sampling_params])
        outputs = [
            self._output(index, prompt["prompt_token_ids"], sampling)
            for index, (prompt, sampling) in enumerate(zip(prompts, sampling_params, strict=True))
        ]
        return outputs[:-1] if TOLD.get("lose_last") else outputs

    def _output(self, index: int, ids: list[int], sampling: SamplingParams) -> SimpleNamespace:
        assert sampling.temperature == 0
        assert sampling.detokenize or not sampling.stop  # vLLM refuses stop texts without it
        ids = ids[-cut:] if (cut := TOLD.get("truncate_to")) else ids
        tokens, reason = self._decode(ids, sampling)
        looked_up = None
        if sampling.logprob_token_ids is not None:
            looked_up = [self._position(ids[-1], [tokens[0], *sampling.logprob_token_ids])]
        scored = None
        if sampling.prompt_logprobs is not None:
            assert sampling.prompt_logprobs == 1
            pairs = itertools.pairwise(ids)
            scored = [
                None,
                *(self._position(before, [token, self._top(before)]) for before, token in pairs),
            ]
        completion = SimpleNamespace(token_ids=tokens, logprobs=looked_up, finish_reason=reason)
        return SimpleNamespace(
            prompt_token_ids=ids,
            prompt_logprobs=scored,
            outputs=[completion],
            metrics=self._metrics(index, len(tokens)) if self.stamped else None,
        )

    def _top(self, before: int) -> int:
        row = self.logits[before]
        return row.index(max(row))

    def _position(self, before: int, tokens: list[int]) -> dict[int, SimpleNamespace]:
        row = self.logits[before]
        total = math.log(math.fsum(map(math.exp, row)))
        return {token: SimpleNamespace(logprob=row[token] - total, rank=None) for token in tokens}

    def _decode(self, ids: list[int], sampling: SamplingParams) -> tuple[list[int], str]:
        tokens: list[int] = []
        ends = set() if sampling.ignore_eos else {self.eos, *sampling.stop_token_ids}
        while len(tokens) < sampling.max_tokens:
            tokens.append(self._top(tokens[-1] if tokens else ids[-1]))
            text = "".join(self.texts[token] for token in tokens)
            if (
                tokens[-1] in ends
                or TOLD.get("stop_early")
                or any(stop in text for stop in sampling.stop)
            ):
                return tokens, "stop"
        return tokens, "length"

    def _metrics(self, index: int, count: int) -> SimpleNamespace:
        """`RequestStateStats`; without a latency in older versions."""
        first = 1000.0 + QUEUED_S + PREFILL_S + index * TOLD.get("spread_s", 0)
        stamps = SimpleNamespace(
            arrival_time=1.7e9,
            queued_ts=1000.0,
            scheduled_ts=1000.0 + QUEUED_S,
            first_token_ts=first,
            last_token_ts=first + (count - 1) * STEP_S,
        )
        if TOLD.get("latency", True):
            stamps.first_token_latency = LATENCY_S
        return stamps
