"""Find the weights that can be quantized, and how each lies in memory, by running the model once.

1. `weight_matmuls` watches the operators that torch runs. It finds every matmul with a weight, by
   memory address, and the axes of the weight that the matmul sums over, by strides.
2. `usage` collects, for one short text run, what happens to each parameter: its matmuls, other
   operators, and whether it routes tokens to experts.
3. `weight_layout` turns the axes of 2 into the view `[N, K]` or `[E, N, K]` that recipes quantize.
4. `targets` lists these weights with their names, and all other matrices with a reason.
"""
