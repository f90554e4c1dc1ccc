"""Where weights come from and which of them can be quantized.

`sources/` loads a model: from the hub, a folder, a GGUF file, or random. `checkpoints/` knows the layouts of quantized folders.
`loaded` is the model in memory, whose weights can be swapped and restored; `cache` keeps the last one. `targets/` finds what can be
quantized by running the model once. `activations/` rounds activations that no layer of ours sees. `architecture` knows the class of a
folder, `tokens` turns text into ids.
"""

from harness.models.loaded import LoadedModel, ModelSource

__all__ = ["LoadedModel", "ModelSource"]
