"""Records of a study, made by hand, as reports read them."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from itertools import count
from types import MappingProxyType
from typing import Any

import builders

from harness.results.record import Metric, RunRecord, Status

MakeRecord = Callable[..., RunRecord]
PLACES = {
    "dtype": "model",
    "device": "model",
    "fingerprint": "model",
    "weights": "model",
    "cpu": "provenance",
    "threads": "provenance",
    "gpu": "provenance",
    "stored_bytes": "quant",
}
"""Field -> the part of a record that has it."""


def record_maker() -> MakeRecord:
    """Return a function that makes the record of a recipe, an hour after the record before it."""
    numbers = count(1)
    return lambda *arguments, **changes: _record(next(numbers), *arguments, **changes)


def _record(
    number: int,
    recipe: str = "none",
    value: float = 0.5,
    task: str = "mmlu",
    *,
    fmt: str | None = None,
    bits: float = 8.0,
    data: str = "data-1",
    model: str = "m",
    config_hash: str | None = None,
    seed: int = 42,
    metrics: tuple[Metric, ...] = (),
    extra: tuple[Metric, ...] = (),
    backend: str = "fake",
    backend_options: Mapping[str, Any] = MappingProxyType({}),
    options: Mapping[str, Any] = MappingProxyType({}),
    rules: str | None = None,
    error: str = "DataError: gone",
    **more: Any,
) -> RunRecord:
    """Return a record. `more` are fields of the record, or of the parts in `PLACES`."""
    parts: dict[str, dict[str, Any]] = {"model": {}, "quant": {}, "provenance": {}}
    for name in PLACES.keys() & more.keys():
        parts[PLACES[name]][name] = more.pop(name)
    quantized, real = recipe != "none", backend != "fake"
    # Records of one hash have one configuration: the identity of a record is computed from it.
    config: dict[str, Any] = {
        "allow_targets": [config_hash or f"{number:06d}"],
        "model": {
            "dtype": parts["model"].get("dtype", "float32"),
            "weights": parts["model"].get("weights", "pretrained"),
        },
        "task": {"seed": seed, **options},
        "quant": {
            "name": recipe,
            "rules": rules or recipe if quantized else {},
            "backend": {"_target_": backend, **backend_options},
        },
    }
    return builders.record(
        run_id=f"run-{number}",
        config_hash=config_hash or f"{number:06d}-hash",
        created=datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=number),
        duration_s=1.0,
        config=config,
        model={
            "name": model,
            "fingerprint": "f",
            "origin": "float checkpoint",
            "architecture": "LlamaForCausalLM",
            "num_parameters": 1000,
            "float_bytes": 4000,
            **parts["model"],
        },
        quant={
            "name": recipe,
            "formats": {"linear": fmt or recipe} if quantized else {},
            "kind": ("real" if real else "fake-quant") if quantized else "none",
            "backend": backend,
            "num_quantized": 800 if quantized else 0,
            "coverage": 0.8 if quantized else 0.0,
            "bits_per_weight": bits if quantized else 32.0,
            "model_bytes": 1600 if quantized else 4000,
            "skipped": (),
            "layers": (),
            **parts["quant"],
        },
        task={
            "name": task,
            "protocol": "p",
            "data": {
                "name": "questions",
                "questions_sha256": data,
                "examples_sha256": "e",
                "num_shots": 5,
            },
        },
        metrics=(*(metrics or (_headline(task, value),)), *extra),
        provenance={
            "git_commit": "0123456789abcdef",
            "git_dirty": False,
            "cpu": "cpu",
            "cpu_flags": (),
            **parts["provenance"],
        },
        error=None if more.get("status", Status.OK) is Status.OK else error,
        **{"warnings": (), **more},
    )


def _headline(task: str, value: float) -> Metric:
    interval = (value * 0.9, value * 1.1)
    if task == "perplexity":
        note = "interval by document, 17 of them"
        return builders.metric("perplexity", value, n=1000, ci95=interval, note=note)
    of_questions = {"unit": "fraction", "n": 1000, "n_of": "question", "higher_is_better": True}
    return builders.metric("accuracy", value, ci95=interval, **of_questions)
