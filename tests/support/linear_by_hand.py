"""Linear layers and symmetric integers by plain loops: what tests of `harness.nn` compare with."""

import torch
from torch import Tensor, nn

from harness.formats.integer import Integer
from harness.quant.granularity import Granularity
from harness.quant.schemes.block_scaled import BlockScaled

IN, OUT = 130, 150
"""Neither 64 nor 128 divides them."""


def ints(bits: int, rows: int, columns: int, **changes: object) -> BlockScaled:
    granularity = Granularity(block=(rows, columns))
    return BlockScaled(element=Integer(bits=bits), granularity=granularity, **changes)


def sample(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def linear(dtype: torch.dtype = torch.float32, *, bias: bool = True) -> nn.Linear:
    """Return a layer with seeded parameters."""
    layer = nn.Linear(IN, OUT, bias=bias, dtype=dtype)
    with torch.no_grad():
        for seed, parameter in enumerate(layer.parameters()):
            parameter.copy_(sample(*parameter.shape, seed=10 + seed))
    return layer


def by_hand(x: Tensor, bits: int, rows: int, columns: int) -> Tensor:
    """Round a matrix to symmetric integers, one block after the other."""
    found, most = torch.empty_like(x), 2 ** (bits - 1) - 1
    rows, columns = (x.shape[0] if rows == -1 else rows), (x.shape[1] if columns == -1 else columns)
    for i in range(0, x.shape[0], rows):
        for j in range(0, x.shape[1], columns):
            block = x[i : i + rows, j : j + columns].float()
            scale = block.abs().max() / most
            found[i : i + rows, j : j + columns] = (block / scale).round() * scale
    return found
