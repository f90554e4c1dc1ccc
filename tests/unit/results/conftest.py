"""Records that are whole, made without a model."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from harness.results.record import (
    LayerReport,
    Metric,
    ModelInfo,
    Provenance,
    QuantReport,
    RunRecord,
    SkippedWeight,
    Status,
    TaskInfo,
    Unit,
)

MakeRecord = Callable[..., RunRecord]


@pytest.fixture
def make_record() -> MakeRecord:
    """Return a function that makes a whole record; keywords replace fields."""

    def make(**changes: Any) -> RunRecord:
        fields: dict[str, Any] = {
            "run_id": "0123456789ab-20260102T030405000006",
            "config_hash": "0123456789ab" + "0" * 52,
            "status": Status.OK,
            "created": datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC),
            "duration_s": 1.25,
            "command": "python -m harness task=perplexity",
            "config": {"task": {"window": 64, "limits": [1, None]}, "force": False},
            "model": ModelInfo(
                name="tiny",
                dtype="float32",
                device="cpu",
                attention="sdpa",
                fingerprint="f00d",
                revision=None,
                origin="random weights",
                num_parameters=12,
                float_bytes=48,
            ),
            "quant": QuantReport(
                name="int8_row",
                formats={"linear": "int8_row"},
                kind="fake-quant",
                num_quantized=6,
                coverage=0.5,
                bits_per_weight=18.6,
                model_bytes=38,
                skipped=(SkippedWeight(name="lm_head", shape=(2, 3), reason="quant.skip"),),
                layers=(
                    LayerReport(
                        name="q_proj",
                        rule="linear",
                        format="int8_row",
                        shape=(2, 3),
                        bits_per_weight=18.6,
                        rel_error=0.004,
                        short_tail=False,
                    ),
                ),
            ),
            "task": TaskInfo(name="perplexity", version=1, protocol="L=64", data={"n": 3}),
            "metrics": (
                Metric(
                    name="perplexity",
                    value=7.0625,
                    unit=Unit.ONE,
                    n=63,
                    n_of="token",
                    ci95=(6.5, 7.75),
                    higher_is_better=False,
                ),
            ),
            "provenance": Provenance(
                git_commit=None,
                git_dirty=None,
                packages={"torch": "2.13.0"},
                python="3.11.7",
                os="Linux",
                cpu="a processor",
                cpu_flags=("avx2",),
                threads=1,
                gpu=None,
                cuda=None,
                torch_flags={},
                seeds={"task.seed": 42},
            ),
            "warnings": ("rows of 80 end with a short group — “ü”",),
        }
        return RunRecord(**fields | changes)

    return make
