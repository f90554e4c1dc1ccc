"""Each recipe of a real backend computes what its fake form does, or says why not here."""

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from recipe_builders import conf_quant
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
LEAST_RAN = 20
"""Recipes that a CPU must be able to run on the tiny model, in each type."""

Compose = Callable[..., dict[str, Any]]
SMALL = ("task.window=20", "task.limit_windows=1", "task.decode=2")


# The type changes slowest, so that the model of a type is made once.
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_real_is_fake_or_unsupported_with_a_reason(
    composed: Compose, tmp_path: Path, dtype: str
) -> None:
    config = composed("device=cpu", "task=parity", *SMALL)
    config["model"]["dtype"], config["results_dir"] = dtype, str(tmp_path)
    judged = set()
    for name in REAL:
        record = measured(config, name)
        if isinstance(record, str):
            assert "must" in record, name
            assert ", got" in record or "but" in record, name
            continue
        assert record.quant is not None
        assert record.quant.kind == "real", name
        assert all(layer.kernel and layer.stored_bytes for layer in record.quant.layers), name
        within = record.metric("within_tolerance")
        assert within is not None, name
        assert within.value in (1, None), (name, within.note)
        if within.value is None:
            assert "no tolerance" in (within.note or ""), name
        else:
            judged.add(name)
    assert len(judged) >= LEAST_RAN, sorted(judged)


def measured(config: dict[str, Any], name: str) -> RunRecord | str:
    """Run a recipe on the tiny model; return its record, or why it is unsupported."""
    quant = copy.deepcopy(conf_quant(name))
    for part in (quant, quant["backend"]):
        if calibration := part.get("calibration"):
            calibration |= {"num_sequences": 2, "length": 64}
    spec = RunSpec.build(copy.deepcopy(config) | {"quant": quant})
    assert spec.recipe.backend.kind == "real"
    try:
        return read(run(spec).path)
    except UnsupportedRecipe as reason:
        return str(reason)
