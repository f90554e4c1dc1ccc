"""The whole model in this process.

`split_model` runs the decoder body and the LM head apart, so that logits exist only for scored positions. `shared_prefix` runs the
beginning that prompts share once; `split_attention` joins attention over it with that over the rest, `prefix_support` says whether a
model can do that, and `prefix_batches` groups prompts. `generation` decodes greedily, eager or compiled, with `decode_attention` for one
query; `decodable` says whether a model can. `log_softmax` makes float64 log-probabilities. `cpu_matmul` lets 16-bit models multiply in
float32 where the processor has no 16-bit instructions. `patch` replaces a method for the length of a block.
"""
