"""How fast a model is: prefill and decode apart, a recipe beside the unquantized model.

`throughput` is the task. Its steps:

1. `prompts` makes token ids, random or of a text.
2. The engine prepares each model to be timed (`harness.engines.timed`). These models are the
   *subjects*; `subject` names them. An unquantized 16-bit model on a CPU is two subjects, one with
   native and one with float32 matmuls. An engine that cannot compare times its model alone.
3. After warm-ups, the task times requests of all subjects in interleaved rounds (`harness.timing`),
   and `times` computes phases and latencies from the engine's stamps.
4. `ratios` compares the recipe with the unquantized model, and `roofline` compares both with the
   peaks of this machine. `metrics` makes the metrics and samples of the record.
"""

from harness.tasks.throughput.throughput import Throughput

__all__ = ["Throughput"]
