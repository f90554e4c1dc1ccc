"""How fast a model is: prefill and decode apart, a recipe beside the unquantized model.

`throughput` is the task. In its order:

1. `prompts` makes token ids, random or of a text.
2. `subject` prepares each model to be timed, and makes the requests. On a CPU the unquantized
   16-bit model is timed in both of its ways, with native and with float32 matmuls.
3. After warm-ups, the task times requests of all subjects in interleaved rounds (`harness.timing`).
4. `ratios` compares the recipe with the unquantized model, `roofline` compares both with the peaks
   of this machine, and `metrics` makes the metrics and samples of the record.
"""

from harness.tasks.throughput.throughput import Throughput

__all__ = ["Throughput"]
