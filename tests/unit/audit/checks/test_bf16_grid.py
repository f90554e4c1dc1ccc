"""Values on a bfloat16 grid, against torch's bfloat16, and columns that are on it by accident."""

import numpy as np
import pytest
import torch

from harness.audit.checks.bf16_grid import bf16_values
from harness.audit.study import study


def is_flagged(header: str, values: list[str]) -> bool:
    rows = [f"| {i} | {value} |" for i, value in enumerate(values)]
    text = "\n".join([f"| scheme | {header} |", "|---|---|", *rows])
    return any(True for _ in bf16_values(study(text)))


@pytest.mark.parametrize("seed", range(5))
def test_perplexities_of_bfloat16_losses_are_found(seed: int) -> None:
    losses = torch.tensor(np.random.default_rng(seed).uniform(2.2, 3.6, 5)).to(torch.bfloat16)
    in_bf16 = [f"{float(x):.2f}" for x in losses.exp()]
    in_float = [f"{x:.3f}" for x in losses.double().exp().tolist()]
    assert is_flagged("PPL", in_bf16)
    assert is_flagged("perplexity", in_float)
    assert is_flagged("loss", [f"{x:.4f}" for x in losses.double().tolist()])


def test_measured_perplexities_are_not() -> None:
    rng = np.random.default_rng(0)
    columns = [[f"{x:.2f}" for x in rng.uniform(5, 60, 4)] for _ in range(2000)]
    assert not any(is_flagged("PPL", column) for column in columns)


def test_few_digits_and_few_values_show_nothing() -> None:
    assert not is_flagged("PPL", ["33", "34", "35", "36"])
    assert not is_flagged("PPL", ["33.00", "33.75"])
    assert not is_flagged("bits/weight", ["8.000", "8.250", "4.500", "4.250"])
