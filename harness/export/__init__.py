"""Write a quantized model as a folder that vLLM, SGLang and transformers read: `python -m harness.export`.

`command` parses, `job` runs, `checkpoint` writes the folder (`shards`, `model_config`, `companions`, `card`) with the quantized layers
in one of the `layouts/`; `engine_kernels` says which engines can run it; `verify` reads the folder back in another process
(`readback`) before it is published.
"""
