"""Protocol lines of earlier versions are renewed; other lines stay."""

import pytest

from harness.results.protocol import renewed

BEFORE = "lm-eval 0.4.13|tasks=a|max_length=8192|{}bos=none|logits=fp32|softmax={}"


@pytest.mark.parametrize("batch", ["batch=1|", "batch=8|"])
def test_one_sequence_a_batch_with_a_float32_softmax_is_the_protocol_of_today(batch: str) -> None:
    today, line = BEFORE.format("", "fp64"), BEFORE.format(batch, "fp32")
    assert renewed(today) == today
    assert renewed(line) == (today if batch == "batch=1|" else line)
