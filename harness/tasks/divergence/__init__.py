"""How far a quantized model's predictions are from the baseline's, token by token.

`divergence` runs both on the same windows, `statistics` derives KL and what else is reported, `questions` compares answers.
`noise_floor` compares a model with itself run in another way: how much results change without any quantization.
"""

from harness.tasks.divergence.divergence import Divergence
from harness.tasks.divergence.noise_floor import NoiseFloor

__all__ = ["Divergence", "NoiseFloor"]
