"""Rounding to bfloat16, beside torch's."""

import numpy as np
import torch

from harness.stats.bfloat16 import bf16


def test_bf16_is_that_of_torch() -> None:
    values = np.random.default_rng(0).uniform(-100, 100, 5000).astype(np.float32)
    ties = np.float32(1) + np.arange(16, dtype=np.float32) / 256
    for each in (values, ties, values / np.float32(1e6), np.zeros(1, dtype=np.float32)):
        expected = torch.tensor(each).to(torch.bfloat16).double().numpy()
        np.testing.assert_array_equal(bf16(each.astype(np.float64)), expected)


def test_a_number_gives_a_number() -> None:
    assert bf16(3.1415) == 3.140625
