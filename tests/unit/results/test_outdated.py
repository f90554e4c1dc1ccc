"""Old records whose numbers are known to be wrong, told from what they say of themselves."""

from typing import Any

import pytest
from builders import record
from repository import ROOT

from harness.results.outdated import (
    CHOSEN_OTHERWISE,
    COMPARED_WITH_ITSELF,
    READ_OTHERWISE,
    outdated,
)
from harness.results.record import LayerReport, RunRecord, SkippedWeight
from harness.results.store import read

LLAMA = "LlamaForCausalLM"
Q4, FLOATS = "dequantized GGUF (210 x Q4_1, 61 x F32)", "dequantized GGUF (12 x BF16, 3 x F32)"
GGUF = "harness.models.sources.gguf.GgufModel"


def changed(
    record: RunRecord,
    task: str = "perplexity",
    architecture: str | None = None,
    origin: str = "float checkpoint",
    source: str = "harness.models.sources.pretrained.LocalModel",
    **quant: Any,
) -> RunRecord:
    assert record.task is not None
    assert record.model is not None
    assert record.quant is not None
    return record.model_copy(
        update={
            "config": record.config | {"model": {"_target_": source}},
            "task": record.task.model_copy(update={"name": task}),
            "model": record.model.model_copy(
                update={"architecture": architecture, "origin": origin}
            ),
            "quant": record.quant.model_copy(
                update={"name": "none", "formats": {}, "skipped": (), "layers": ()} | quant
            ),
        }
    )


def matrix(*shape: int) -> LayerReport:
    return LayerReport(
        name="experts.up",
        rule="linear",
        format="int8_row",
        shape=shape,
        bits_per_weight=8.0,
        rel_error=0.01,
        short_tail=False,
    )


CHECKPOINT = {"formats": {"checkpoint": "int4 weights in groups of 64"}, "kind": "fake-quant"}
STACK = {"name": "int8_row", "formats": {"linear": "int8_row"}, "layers": (matrix(4, 32, 16),)}
PLAIN = STACK | {"layers": (matrix(32, 16),)}
CONVOLUTION = SkippedWeight(name="conv1d", shape=(32, 1, 4), reason="no linear layer")


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        (CHECKPOINT | {"task": "divergence"}, COMPARED_WITH_ITSELF),
        (CHECKPOINT | {"task": "noise_floor", "architecture": LLAMA}, COMPARED_WITH_ITSELF),
        ({"task": "divergence", "source": GGUF, "origin": Q4}, COMPARED_WITH_ITSELF),
        ({"task": "divergence", "source": GGUF, "origin": FLOATS}, None),
        # The embedded model is defined as its dequantized weights.
        (
            {
                "task": "divergence",
                "source": "harness.models.sources.embedded.EmbeddedModel",
                "origin": Q4,
            },
            None,
        ),
        (CHECKPOINT, READ_OTHERWISE),
        (CHECKPOINT | {"architecture": LLAMA}, None),
        (STACK, CHOSEN_OTHERWISE),
        (STACK | {"architecture": "MixtralForCausalLM"}, None),
        (PLAIN | {"skipped": (CONVOLUTION,)}, CHOSEN_OTHERWISE),
        (PLAIN, None),
        # The unquantized model is what it was, whatever its matrices are.
        ({"skipped": (CONVOLUTION,)}, None),
    ],
)
def test_what_makes_a_record_outdated(facts: dict[str, Any], reason: str | None) -> None:
    assert outdated(changed(record(), **facts)) == reason


def test_no_published_record_is_outdated() -> None:
    files = sorted((ROOT / "results" / "published").glob("*/*/*/*.json"))
    assert len(files) > 50
    assert [file.name for file in files if outdated(read(file))] == []
