"""Per-block INT8 in a small network: how far do W8A8 and W8A16 change its output?

    python examples/per_block.py

`replace_linears` replaces every linear layer in place. The new layers run in float, record the
ranges of their activations, or compute with rounded weights and activations (`set_mode`). Blocks
are groups of 64 along a row, or tiles of 128 x 128.
"""

import copy

import torch
from torch import nn

from harness.formats import Integer
from harness.nn import replace_linears, set_mode
from harness.quant import BlockScaled, Granularity

WIDTH, TOKENS = 512, 256


def int8(rows: int, columns: int) -> BlockScaled:
    """Return INT8 with one scale for each block."""
    return BlockScaled(element=Integer(bits=8), granularity=Granularity(block=(rows, columns)))


WEIGHTS = {"groups of 64": int8(1, 64), "128 x 128 tiles": int8(128, 128)}
ACTIVATIONS = {
    "W8A16": None,
    "W8A8, dynamic": int8(1, 64),  # one scale for each token and group
    "W8A8, static": int8(-1, 64),  # one scale for each group, shared by all tokens
}


def main() -> None:
    """Print the mean squared error of the output for every combination."""
    torch.manual_seed(0)
    layers = [nn.Linear(WIDTH, WIDTH) for _ in range(3)]
    model = nn.Sequential(layers[0], nn.GELU(), layers[1], nn.GELU(), layers[2]).eval()
    calibration, x = torch.randn(2, TOKENS, WIDTH)
    with torch.no_grad():
        exact = model(x)
        print(f"power of the output: {exact.square().mean():.3e}")
        for blocks, weight in WEIGHTS.items():
            for name, activation in ACTIVATIONS.items():
                changed = copy.deepcopy(model)
                replace_linears(changed, weight, activation, static_input="static" in name)
                set_mode(changed, "calibrate")
                changed(calibration)
                set_mode(changed, "float")
                before = (changed(x) - exact).square().mean()
                set_mode(changed, "fake_quant")
                after = (changed(x) - exact).square().mean()
                print(f"{blocks:>15}  {name:<13}  MSE {before:.1e} before, {after:.3e} after")


if __name__ == "__main__":
    main()
