"""Every recipe of a real backend computes what its fake-quantized form does, or says why it cannot run here."""

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from repository import ROOT

from harness.errors import UnsupportedRecipe
from harness.results.record import RunRecord
from harness.results.store import read
from harness.runner.run import RunSpec, run

CONF = ROOT / "conf" / "quant"
REAL = sorted(
    file.stem
    for file in CONF.glob("*.yaml")
    if re.search(r"/backend@backend: (?!fake)", file.read_text("utf-8"))
)
DTYPES = ("float32", "bfloat16")
LEAST_RAN = 20
"""Recipes that a CPU must be able to run on the tiny model, in one type at least."""

Compose = Callable[..., dict[str, Any]]


COMPOSED: dict[str, dict[str, Any]] = {}
"""Configurations by recipe: composing one takes longer than running it."""


class Outcome(NamedTuple):
    """What became of a recipe."""

    record: RunRecord | None
    reason: str


@pytest.fixture(scope="module")
def outcomes() -> dict[tuple[str, str], Outcome]:
    """What is known already, by recipe and type."""
    return {}


@pytest.fixture
def outcome(
    composed: Compose, tmp_path: Path, outcomes: dict[tuple[str, str], Outcome]
) -> Callable[[str, str], Outcome]:
    """Run a recipe on the tiny model in a type, once for all tests."""

    def measured(name: str, dtype: str) -> Outcome:
        if (name, dtype) not in outcomes:
            outcomes[name, dtype] = _run(composed, tmp_path, name, dtype)
        return outcomes[name, dtype]

    return measured


def _run(composed: Compose, results: Path, name: str, dtype: str) -> Outcome:
    small = ("task=parity", "task.window=20", "task.limit_windows=2", "task.decode=2")
    if name not in COMPOSED:
        COMPOSED[name] = composed(f"+quant={name}", "device=cpu", *small)
    resolved = copy.deepcopy(COMPOSED[name]) | {"results_dir": str(results)}
    resolved["model"]["dtype"] = dtype
    _shorten(resolved["quant"])
    _shorten(resolved["quant"]["backend"])
    spec = RunSpec.build(resolved)
    assert spec.recipe.backend.kind == "real"
    try:
        return Outcome(read(run(spec).path), "")
    except UnsupportedRecipe as reason:
        return Outcome(None, str(reason))


def _shorten(part: dict[str, Any]) -> None:
    """Let what calibrates do so on little text."""
    if calibration := part.get("calibration"):
        calibration |= {"num_sequences": 2, "length": 64}


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize(
    "dtype", DTYPES
)  # changes slowest, so that the model of a type is made once
def test_real_is_fake_or_unsupported_with_a_reason(
    outcome: Callable[[str, str], Outcome], name: str, dtype: str
) -> None:
    record, reason = outcome(name, dtype)
    if record is None:
        assert "must" in reason
        assert ", got" in reason or "but" in reason
        return
    assert record.quant is not None
    assert record.quant.kind == "real"
    assert all(layer.kernel and layer.stored_bytes for layer in record.quant.layers)
    within = record.metric("within_tolerance")
    assert within is not None
    assert within.value in (1, None), within.note
    if within.value is None:
        assert "no tolerance" in (within.note or "")


def test_enough_recipes_run_here_and_are_judged(outcome: Callable[[str, str], Outcome]) -> None:
    judged = {
        name
        for name in REAL
        for dtype in DTYPES
        if (record := outcome(name, dtype).record) is not None
        and (within := record.metric("within_tolerance")) is not None
        and within.value == 1
    }
    assert len(judged) >= LEAST_RAN, sorted(judged)
