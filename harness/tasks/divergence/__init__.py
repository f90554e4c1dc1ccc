"""How far a model's predictions are from its baseline's, token by token.

`compare` asks two engines about the same windows; `statistics` turns their answers into means,
intervals and percentiles. Three tasks make such a comparison:

- `divergence`: a recipe beside the unquantized model; `questions` compares answers as well.
- `noise_floor`: the unquantized model beside itself, run in another way. Shows how much results
  change without any quantization.
- `parity` (`harness.tasks.parity`): a real backend beside the fake-quantized model.
"""

from harness.tasks.divergence.divergence import Divergence
from harness.tasks.divergence.noise_floor import NoiseFloor

__all__ = ["Divergence", "NoiseFloor"]
