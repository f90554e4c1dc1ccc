"""Write a quantized model as a folder for vLLM, SGLang and transformers (`harness.export`).

1. `command` parses the command line; `job` builds the parts and loads the model.
2. `checkpoint` quantizes the model with the recipe. `backend` hands each layer to one of
   `layouts/`, which packs it, and `shards` writes it; `pieces` cuts stacks of experts into the
   layers that files hold.
3. `contents` says which layers of the files are quantized; `model_config` writes config.json,
   `companions` the tokenizer, `card` the manifest and the model card.
4. `verify` reads the folder back in another process (`readback`) and compares it with the model in
   memory. Only then does the folder get its name.
5. `engine_kernels` warns of layers that no kernel of vLLM runs.
"""
