"""Records, exports and summaries hold no secret, and a secret does not tell two runs apart."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from runs import PERPLEXITY, MakeSpec
from secret_shapes import SHAPES

from harness.config import CONF
from harness.display.summary import Ending, JobResult, print_summary
from harness.errors import DataError
from harness.export import job
from harness.export.command import register, resolve
from harness.identity import config_hash
from harness.machine import provenance
from harness.redaction import MASK
from harness.runner.run import run


def test_command_of_a_record_is_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    typed = [
        "python",
        "-m",
        "harness",
        f"+hydra.job.env_set.HF_TOKEN={SHAPES['Hugging Face']}",
        "task.limit=8",
    ]
    monkeypatch.setattr(sys, "orig_argv", typed)
    assert (
        provenance.command_line()
        == f"python -m harness '+hydra.job.env_set.HF_TOKEN={MASK}' task.limit=8"
    )


def test_error_of_a_record_is_masked_by_the_value_in_the_environment(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "no-shape-at-all")
    spec = make_spec(*PERPLEXITY)

    def refuse(_self: object) -> dict[str, Any]:
        raise DataError("the hub refused no-shape-at-all; log in")

    monkeypatch.setattr(type(spec.task), "data_facts", refuse)
    with pytest.raises(DataError):
        run(spec)
    (path,) = spec.store.root.rglob("*.json")
    assert "no-shape-at-all" not in path.read_text()
    assert json.loads(path.read_text())["error"] == f"DataError: the hub refused {MASK}; log in"


def test_two_runs_with_different_tokens_are_the_same_run() -> None:
    def hashed(**model: Any) -> str:
        resolved = {"model": model, "allow_targets": [], "task": {"a": 1}}
        return config_hash(resolved, "cpu")

    plain = hashed(path="x")
    assert hashed(path="x", token="a1") == hashed(path="x", token="b2") != plain  # noqa: S106
    one, other = (f"https://me:{word}@host/r" for word in ("first1", "second2"))
    assert hashed(path=one) == hashed(path=other)
    assert hashed(path=one) != hashed(path="https://host/r")
    assert hashed(path=SHAPES["GitHub"]) == hashed(path=SHAPES["GitHub app"])


def test_model_card_and_manifest_of_an_export_are_masked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    secret = SHAPES["Hugging Face"]
    typed = ["python", "-m", "harness.export", f"+hydra.job.env_set.HF_TOKEN={secret}"]
    monkeypatch.setattr(sys, "orig_argv", typed)
    monkeypatch.setattr(job, "export", lambda *_args, facts, **_kwargs: facts)
    register()
    overrides = [
        "model=tiny",
        "data=embedded",
        "device=cpu",
        "+quant=int8_row",
        "allow_targets=[x]",
    ]
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        composed = compose("export", overrides=[*overrides, f"out={tmp_path}/{secret}"])
    facts: Any = job.run(resolve(composed))
    assert secret not in json.dumps(facts)
    assert facts["command"].endswith(f"HF_TOKEN={MASK}'")
    assert facts["config"]["out"] == f"{tmp_path}/{MASK}"


def test_summary_masks_before_it_folds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    secret = SHAPES["OpenAI project"]
    rows = [
        JobResult(
            overrides=(f"model.x={i}", f"data.y={secret}{i}"), ending=Ending.OK, text=f"at {secret}"
        )
        for i in "ab"
    ]
    print_summary(rows)
    shown = "".join(capsys.readouterr().err.split())
    assert not any(secret[i : i + 12] in shown for i in range(0, len(secret) - 12, 4))
    assert MASK in shown
