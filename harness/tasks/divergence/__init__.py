"""How far a model's predictions are from its baseline's, token by token.

`compare` asks two engines about the same windows, `statistics` makes means, intervals and
percentiles of their answers. Three tasks ask for such a comparison:

- `divergence`: a recipe beside the unquantized model; `questions` compares answers as well.
- `noise_floor`: the unquantized model beside itself, run in another way. Shows how much results
  change without any quantization.
- `parity` (a room of its own): a real backend beside the fake-quantized model.
"""

from harness.tasks.divergence.divergence import Divergence
from harness.tasks.divergence.noise_floor import NoiseFloor

__all__ = ["Divergence", "NoiseFloor"]
