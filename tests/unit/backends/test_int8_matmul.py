"""INT8 matmuls: exact at extreme codes, and found out where a processor saturates their sums."""

import pytest
import torch
from recipe_builders import saturating_matmul

from harness.backends.int8_matmul import int_mm, saturation

CPU = torch.device("cpu")


@pytest.mark.usefixtures("exact_int_mm")
def test_integer_matmul_is_exact_at_extreme_codes() -> None:
    generator = torch.Generator().manual_seed(0)
    a = torch.randint(-128, 128, (33, 4096), dtype=torch.int8, generator=generator)
    b = torch.randint(-128, 128, (24, 4096), dtype=torch.int8, generator=generator)
    a[0], b[0] = -128, -128
    assert torch.equal(int_mm(a, b).long(), a.long() @ b.long().t())
    assert saturation(CPU) is None


def test_saturating_matmul_is_found() -> None:
    reason = saturation(CPU, saturating_matmul)
    assert reason is not None
    assert "saturates" in reason
    # 32 x 4096 x 16 products in pairs, of which two of 127 x 127 are 32258: only of -128 x -128 is
    # the sum too large.
    assert str(32 * 16 * 2048 * (2**15 - 1)) in reason
