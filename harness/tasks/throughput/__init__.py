"""How fast a model is: prefill and decode apart, beside the unquantized model in alternating rounds.

`throughput` runs the rounds on a `subject`, `prompts` makes the token ids, `ratios` compares with the baseline, `roofline` with
what this machine can do, and `metrics` writes it all down. `vllm` times a vLLM engine.
"""

from harness.tasks.throughput.throughput import Throughput
from harness.tasks.throughput.vllm import VllmThroughput

__all__ = ["Throughput", "VllmThroughput"]
