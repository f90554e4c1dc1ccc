"""MMLU: four-choice questions with five examples in front, as lm-eval asks them.

`prompt` writes the question to the byte. `direct` takes the likeliest of " A" to " D"; `generate` decodes greedily and parses the
answer. `mmlu` runs either over all questions, those of a subject together, because they share their examples. `accuracy` makes the
metrics, and `vllm` asks a vLLM engine the same questions.
"""

from harness.tasks.mmlu.direct import Direct
from harness.tasks.mmlu.generate import Generate
from harness.tasks.mmlu.mmlu import MMLU
from harness.tasks.mmlu.vllm import VllmMMLU

__all__ = ["MMLU", "Direct", "Generate", "VllmMMLU"]
