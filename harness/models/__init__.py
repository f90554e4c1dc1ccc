"""Models: where weights come from, what is in memory, and which weights can be quantized.

1. `sources/` are the model sources that `conf/model` names: the hub, a folder, a GGUF file, random
   weights. `checkpoints/` reads their folders, unquantized and quantized; `architecture` finds the
   class for a folder.
2. `loaded` is a model in memory, whose weights a recipe swaps and restores. `cache` keeps the last
   one.
3. `targets/` finds the weights that can be quantized, by running the model once.
4. `activations/` rounds activations where no layer of this project does it: in quantized
   checkpoints, and in fused experts.
5. `tokens` turns text into token ids.
"""

from harness.models.loaded import LoadedModel, ModelSource

__all__ = ["LoadedModel", "ModelSource"]
