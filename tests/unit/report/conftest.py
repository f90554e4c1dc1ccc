"""Records made by hand, and a folder to file them in."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import pytest
from items import with_items

from harness.results.record import (
    Metric,
    ModelInfo,
    Provenance,
    QuantReport,
    RunRecord,
    Status,
    TaskInfo,
    Unit,
)
from harness.results.store import ResultStore

MakeRecord = Callable[..., RunRecord]


@pytest.fixture
def make_record() -> MakeRecord:
    """A whole record of a recipe; keyword arguments change what a test is about."""
    made = 0

    def make(
        recipe: str = "none",
        value: float = 0.5,
        task: str = "mmlu",
        fmt: str | None = None,
        bits: float = 8.0,
        data: str = "data-1",
        model: str = "m",
        fingerprint: str = "f",
        config_hash: str | None = None,
        seed: int = 42,
        warnings: tuple[str, ...] = (),
        status: Status = Status.OK,
        extra: tuple[Metric, ...] = (),
        backend: str = "fake",
        backend_options: Mapping[str, Any] = MappingProxyType({}),
        weights: Literal["pretrained", "random"] = "pretrained",
        stored_bytes: int | None = None,
        options: Mapping[str, Any] = MappingProxyType({}),
        metrics: tuple[Metric, ...] = (),
        device: str = "cpu",
        cpu: str = "cpu",
        threads: int = 1,
        gpu: str | None = None,
        dtype: str = "float32",
        rules: str | None = None,
        error: str = "DataError: gone",
    ) -> RunRecord:
        nonlocal made
        made += 1
        fraction = task != "perplexity"
        headline = Metric(
            name="accuracy" if fraction else "perplexity",
            value=value,
            unit=Unit.FRACTION if fraction else Unit.ONE,
            n=1000,
            n_of="question" if fraction else "token",
            ci95=(value * 0.9, value * 1.1),
            note=None if fraction else "interval by document, 17 of them",
            higher_is_better=fraction,
        )
        quantized = recipe != "none"
        real = backend != "fake"
        # Records of one hash have one configuration: the identity of a record is computed from it.
        config: dict[str, Any] = {
            "allow_targets": [config_hash or f"{made:06d}"],
            "model": {"dtype": dtype, "weights": weights},
            "task": {"seed": seed, **options},
            "quant": {
                "name": recipe,
                "rules": rules or recipe if quantized else {},
                "backend": {"_target_": backend, **backend_options},
            },
        }
        return RunRecord(
            run_id=f"run-{made}",
            config_hash=config_hash or f"{made:06d}-hash",
            status=status,
            created=datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=made),
            duration_s=1.0,
            command="python -m harness",
            config=config,
            model=ModelInfo(
                name=model,
                dtype=dtype,
                device=device,
                attention="sdpa",
                fingerprint=fingerprint,
                revision=None,
                origin="float checkpoint",
                architecture="LlamaForCausalLM",
                weights=weights,
                num_parameters=1000,
                float_bytes=4000,
            ),
            quant=QuantReport(
                name=recipe,
                formats={"linear": fmt or recipe} if quantized else {},
                kind=("real" if real else "fake-quant") if quantized else "none",
                backend=backend,
                stored_bytes=stored_bytes,
                num_quantized=800 if quantized else 0,
                coverage=0.8 if quantized else 0.0,
                bits_per_weight=bits if quantized else 32.0,
                model_bytes=1600 if quantized else 4000,
                skipped=(),
                layers=(),
            ),
            task=TaskInfo(
                name=task,
                version=1,
                protocol="p",
                data={
                    "name": "questions",
                    "questions_sha256": data,
                    "examples_sha256": "e",
                    "num_shots": 5,
                },
            ),
            metrics=(*(metrics or (headline,)), *extra),
            provenance=Provenance(
                git_commit="0123456789abcdef",
                git_dirty=False,
                packages={},
                python="3.11",
                os="os",
                cpu=cpu,
                cpu_flags=(),
                threads=threads,
                gpu=gpu,
                cuda=None,
                torch_flags={},
                seeds={},
            ),
            warnings=warnings,
            error=None if status is Status.OK else error,
        )

    return make


@pytest.fixture
def parse_rate() -> Metric:
    """What a record of generated answers has beside its accuracy."""
    return Metric(
        name="parse_rate",
        value=0.9,
        unit=Unit.FRACTION,
        n=1000,
        n_of="question",
        higher_is_better=True,
    )


@pytest.fixture
def file_records(tmp_path: Path) -> Callable[..., Path]:
    """Write records and their items to a results folder and return it."""

    def write(*records: RunRecord, task: str = "t") -> Path:
        store = ResultStore(root=tmp_path / "results")
        for record in records:
            path = store.path(record, task=task, model="m", recipe="r")
            store.write(path, with_items(store, path, record))
        return store.root

    return write
