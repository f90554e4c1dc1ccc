"""Read checkpoints of compressed-tensors (0.20): of llm-compressor, and exports of this project.

`config` finds the scheme of a layer in `config.json`. `weights` dequantizes the tensors of a layer
by its scheme. `reader` does both for every layer of a folder, and finds what the checkpoint rounds:
activations, outputs, the KV cache.
"""

from harness.models.checkpoints.methods.compressed_tensors.reader import read_compressed_tensors

__all__ = ["read_compressed_tensors"]
