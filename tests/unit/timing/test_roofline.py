"""Costs against sums written out, and against torch's own count of operations."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from harness.engines.local.generation import Generation
from harness.engines.local.shape import shape_of
from harness.errors import InvalidResult
from harness.models.loaded import LoadedModel
from harness.timing import roofline
from harness.timing.roofline import PhaseCost, Shape

# Two layers, one of which sees 4 positions; 6 query and 2 key heads of 8 numbers, 2 bytes each.
SHAPE = Shape(
    body_weights=1000,
    head_weights=300,
    windows=(None, 4),
    heads=6,
    kv_heads=2,
    head_dim=8,
    kv_itemsize=2,
    row_bytes=96,
)


def test_keys_and_values_of_each_layer_are_what_it_sees() -> None:
    assert SHAPE.attended(3) == 3 + 3
    assert SHAPE.attended(10) == 10 + 4
    assert (
        SHAPE.kv_bytes(10) == 2 * 2 * 8 * 2 * 14
    )  # keys and values, heads, numbers, bytes, positions


def test_a_step_reads_weights_once_and_keys_of_every_sequence() -> None:
    cost = roofline.step(SHAPE, 5000, batch=3, context=10)
    assert cost.num_bytes == 5000 + 3 * (96 + 896)
    assert cost.matmul == 2 * 3 * 1300
    assert cost.attention == 4 * 3 * 6 * 8 * 14


def test_decode_is_the_mean_of_its_steps() -> None:
    steps = [roofline.step(SHAPE, 5000, 3, context) for context in (7, 8, 9)]
    cost = roofline.decode(SHAPE, 5000, batch=3, prompt=6, new_tokens=4)
    assert cost.num_bytes == pytest.approx(sum(step.num_bytes for step in steps) / 3)
    assert cost.attention == pytest.approx(sum(step.attention for step in steps) / 3)


def test_prefill_multiplies_the_head_once_and_attends_causally() -> None:
    cost = roofline.prefill(SHAPE, 5000, batch=3, prompt=6)
    assert cost.matmul == 2 * 3 * (1000 * 6 + 300)
    full, windowed = 1 + 2 + 3 + 4 + 5 + 6, 1 + 2 + 3 + 4 + 4 + 4
    assert cost.attention == 4 * 3 * 6 * 8 * (full + windowed)


def test_operations_are_those_that_torch_counts(tiny: LoadedModel) -> None:
    prompts = torch.arange(20).view(2, 10)
    generation = Generation(tiny, prompts, 3, cache="dynamic")
    shape = shape_of(tiny)
    counted = []
    for phase in (generation.prefill, generation.step):
        counter = FlopCounterMode(display=False)
        with counter:
            phase()
        by_operator = counter.get_flop_counts()["Global"]
        counted.append(sum(n for op, n in by_operator.items() if "mm" in str(op)))
    assert roofline.prefill(shape, 0, 2, 10).matmul == counted[0]
    assert roofline.step(shape, 0, 2, 11).matmul == counted[1]


def test_cache_of_the_model_is_what_the_last_step_reads(tiny: LoadedModel) -> None:
    generation = Generation(tiny, torch.arange(20).view(2, 10), 5, cache="dynamic")
    generation.prefill()
    for _ in range(4):
        generation.step()
    assert generation.cache_bytes == 2 * shape_of(tiny).kv_bytes(10 + 4)


def test_least_time_is_at_the_peak_of_each_type() -> None:
    cost = PhaseCost(num_bytes=0, matmul=100.0, attention=30.0)
    peaks = {"int8": 20.0, "bfloat16": 10.0}
    alone = roofline.least_seconds(cost, {"bfloat16": 7.0}, peaks, attention="bfloat16")
    assert alone == pytest.approx((100 + 30) / 10)
    mixed = roofline.least_seconds(cost, {"int8": 3.0, "bfloat16": 1.0}, peaks, "bfloat16")
    assert mixed == pytest.approx(75 / 20 + 25 / 10 + 30 / 10)


def test_more_than_the_machine_can_do_is_invalid() -> None:
    assert roofline.possible("mbu", 1.0) == 1.0
    with pytest.raises(InvalidResult, match=r"decode_mbu must be at most 1, got 1\.25"):
        roofline.possible("decode_mbu", 1.25)
