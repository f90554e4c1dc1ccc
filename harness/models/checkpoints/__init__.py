"""Checkpoint folders: which files count, and how quantized layouts become float weights.

`folder` and `folder_files` read what transformers would read; `loading_report`, `plausible` and `zero_weights` refuse folders whose
tensors do not make the model. `readers` maps each quantization method to its reader: `awq`, `gptq`, `fp8`, `mxfp4`, `modelopt`,
`compressed_tensors`. A reader returns `dequantized` weights; `prequantized` says what a checkpoint is, `schemes` names its formats.
"""
