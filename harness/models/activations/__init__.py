"""Rounded activations of layers that are not ours: in quantized checkpoints, and in fused experts.

`activation_format` is the arithmetic: how a checkpoint's format rounds one tensor.
`rounded_activations` installs it in a model with the dequantized weights of a checkpoint.
`expert_activations` is for recipes: it hands over the activations of a layer or of one expert.
"""
