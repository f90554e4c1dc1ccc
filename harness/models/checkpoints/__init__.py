"""Checkpoint folders, unquantized and quantized: how one is read.

1. `folder_files` says which files of a folder are the model. `stored_tensors` reads their headers,
   `settings` the quantization settings of `config.json`, and `plausible` checks its sizes.
2. Without such settings, `folder` loads the float weights through transformers, and
   `loading_report` checks that files and model have the same tensors; `loading_warnings` says the
   rest.
3. With them, `readers` looks the method up. The readers in `methods/` dequantize codes exactly,
   whatever the device; `by_library` loads other methods through transformers and the library that
   wrote them.
4. `prequantized` has the facts about a quantized checkpoint that a record keeps. `stored_bytes` is
   the memory that its weights take.
"""

from harness.models.checkpoints.prequantized import Prequantized

__all__ = ["Prequantized"]
