"""The worker: loads a model into vLLM, in vLLM's own environment, and answers lines of JSON.

It imports vLLM and the standard library alone, because the packages that the harness needs and
those that vLLM needs cannot be installed together. One line of JSON comes in on standard input for
each line that goes out:

    (at the start)                      {"version": "0.32.0", "device": "cpu"}
    {"load": {ARGUMENT OF LLM: ...}}    {"loaded": true}
    {"run": [PROMPT, ...]}              {"outputs": [OUTPUT, ...]}
    (anything that fails)               {"error": "ValueError: ..."}

A PROMPT has `ids`, `sampling` (arguments of `SamplingParams`) and `first`, the index of the first
token whose log-probability is returned; `output_of` says what an OUTPUT has. The worker knows
nothing of tasks and requests: `harness.engines.vllm.running` turns requests into prompts.

When standard input closes, the harness has ended, and the worker ends too.
"""

import importlib
import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

STAMPS = ("scheduled_ts", "first_token_ts", "last_token_ts", "first_token_latency")
"""Attributes of a request's metrics: times of one monotonic clock, and a duration [s]."""


def main() -> None:
    """Answer lines until standard input closes."""
    # Anything may print to standard output, C++ code too. Answers get a descriptor of their own.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
    idle = threading.Event()
    threading.Thread(target=_read, args=(requests, idle), daemon=True).start()
    worker = Worker()
    answer = _answered(worker.hello)
    while True:
        out.write(f"{json.dumps(answer)}\n")
        out.flush()
        idle.set()
        request = requests.get()
        if request is None:
            return  # an ordinary exit lets vLLM end processes of its own
        idle.clear()
        answer = _answered(worker.answer, request)


def _read(requests: "queue.SimpleQueue[Any]", idle: threading.Event) -> None:
    """Queue each line of standard input; at its end, queue None."""
    for line in sys.stdin:
        requests.put(json.loads(line))
    requests.put(None)
    # Nobody waits for the answer of a busy worker. Its process group includes those of vLLM.
    if not idle.is_set():
        os.killpg(os.getpgrp(), signal.SIGKILL)


def _answered(method: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """Return what a method returns, or `{"error": ...}` if it raises."""
    try:
        return method(*arguments)
    except Exception as reason:
        return {"error": f"{type(reason).__name__}: {reason}"}


class Worker:
    """vLLM, and the model that it holds."""

    def hello(self) -> dict[str, Any]:
        """Import vLLM; return its version and the kind of device that it is built for."""
        # Imported here, so that the error of a missing package is sent as an answer.
        self.vllm: Any = importlib.import_module("vllm")
        platform = importlib.import_module("vllm.platforms").current_platform
        return {"version": self.vllm.__version__, "device": platform.device_type}

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer a request, see the module docstring."""
        if "load" in request:
            self.llm: Any = self.vllm.LLM(**request["load"])
            return {"loaded": True}
        prompts = request["run"]
        outputs = self.llm.generate(
            [{"prompt_token_ids": prompt["ids"]} for prompt in prompts],
            [self.vllm.SamplingParams(**prompt["sampling"]) for prompt in prompts],
            use_tqdm=False,
        )
        firsts = [prompt["first"] for prompt in prompts]
        return {"outputs": [output_of(*pair) for pair in zip(outputs, firsts, strict=False)]}


def output_of(output: Any, first: int) -> dict[str, Any]:
    """Return a `RequestOutput` as plain data.

    Returns:
        `ids`: the prompt that ran. `tokens`, `finish_reason`: its continuation. `prompt_log_probs`:
        for each token from index `first` on, its log-probability and the largest one of its
        position, or null. `next_log_probs`: pairs of a token id and its log-probability as the
        first new token, or null. `stamps`: those of `STAMPS` that this version keeps.
    """
    completion, ids = output.outputs[0], list(output.prompt_token_ids or ())
    prompt = following = None
    if output.prompt_logprobs is not None:
        # A dict for each position: token id -> `Logprob` of the prompt's token and the likeliest.
        prompt = [
            (position[token].logprob, max(each.logprob for each in position.values()))
            for token, position in zip(ids[first:], output.prompt_logprobs[first:], strict=False)
        ]
    if completion.logprobs:
        following = [(token, each.logprob) for token, each in completion.logprobs[0].items()]
    return {
        "ids": ids,
        "tokens": list(completion.token_ids),
        "finish_reason": completion.finish_reason,
        "prompt_log_probs": prompt,
        "next_log_probs": following,
        "stamps": {name: getattr(output.metrics, name, None) for name in STAMPS},
    }


if __name__ == "__main__":
    main()
