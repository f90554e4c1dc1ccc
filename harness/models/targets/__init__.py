"""Which weights can be quantized, found by running the model once.

`weight_matmuls` watches every matmul for operands that are weights, `usage` turns what it saw into roles, `weight_layout` says which
axis a matmul sums over, and `targets` lists the weights with their names.
"""
