"""Quantization methods, one file each: how its codes and scales lie in files, and what they mean.

`awq`, `gptq`, `fp8`, `mxfp4`, `modelopt` and `compressed_tensors/` are readers: functions that
return a `Dequantized` (`dequantized`), the float weights of a folder and the activations that it
rounds. They share `codes` (packed codes, scales of blocks), `packed_layers` (GPTQ and AWQ) and
`kv_cache`. `bitsandbytes` mends what transformers and bitsandbytes get wrong. `schemes` says the
formats of every method in words.
"""
