"""One run, start to finish: the only module that knows every stage."""

import logging
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from harness import config, signals
from harness.backends.fake import FakeBackend
from harness.engines.local import cpu_matmul as products
from harness.errors import (
    ConfigError,
    HarnessError,
    InvalidResult,
    OutputError,
    UnsupportedRecipe,
)
from harness.identity import config_hash
from harness.machine import devices, memory, provenance
from harness.models import cache
from harness.models.loaded import LoadedModel, ModelSource
from harness.output.names import local_path
from harness.recipe import Quantized, QuantRecipe, audit_after, quantize
from harness.results import float_paths
from harness.results import formatting as figures
from harness.results.record import Metric, ModelInfo, RunRecord, Status
from harness.results.store import ResultStore, Stored, next_attempt
from harness.runner.calibrated import calibration_of, overlap_warnings
from harness.runner.foreign_code import foreign_code
from harness.runner.on_file import same_run
from harness.tasks.base import ModelFreeTask, PairedTask, Task, TaskResult

log = logging.getLogger(__name__)

STATUS_OF: Mapping[type[BaseException], Status] = MappingProxyType(
    {
        KeyboardInterrupt: Status.CANCELLED,
        InvalidResult: Status.INVALID,
        UnsupportedRecipe: Status.UNSUPPORTED,
    }
)
"""What a record says of a run that such an error ended; any other is `error`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSpec:
    """What to run, as objects."""

    model: ModelSource
    recipe: QuantRecipe
    task: Task | PairedTask | ModelFreeTask
    device: torch.device
    store: ResultStore
    force: bool
    resolved: Mapping[str, Any]
    """The configuration it was built from; null where the task has no use for a part."""

    @classmethod
    def build(cls, resolved: Mapping[str, Any], name: str | None = None) -> "RunSpec":
        """Build every component of a resolved configuration; nothing is loaded yet.

        Args:
            resolved: The configuration.
            name: What to call the recipe, if not by the name that its file gives; see `harness.cli.recipe_name`.

        Raises:
            ConfigError: A key or value is not legal, or a recipe is asked of a task without a model.
            OutputError: `results_dir` is no path.
        """
        allowed = tuple(resolved["allow_targets"])

        def part(key: str, kind: type[config.Component]) -> config.Component:
            return config.check_component(config.build(resolved[key], key, allowed), kind, key)

        model, recipe = part("model", ModelSource), part("quant", QuantRecipe)
        recipe = replace(recipe, name=name or recipe.name)
        task: Task | PairedTask | ModelFreeTask = config.build(resolved["task"], "task", allowed)
        if isinstance(task, PairedTask):
            _refuse_unpaired(task, recipe)
        elif isinstance(task, ModelFreeTask):
            _refuse_recipe(task, recipe)
            resolved = {
                **resolved,
                "model": None,
                "data": None,
            }  # whatever they are, it is the same run
        else:
            task = config.check_component(task, Task, "task")
        return cls(
            model=model,
            recipe=recipe,
            task=task,
            device=devices.choose(resolved["device"]),
            store=ResultStore(root=local_path(resolved["results_dir"], "results_dir")),
            force=resolved["force"],
            resolved=resolved,
        )

    @property
    def place(self) -> dict[str, str]:
        """The names that decide where records lie; see `ResultStore.path`."""
        model = "no_model" if isinstance(self.task, ModelFreeTask) else self.model.name
        return {"task": self.task.name, "model": model, "recipe": self.recipe.name}


def _refuse_unpaired(task: PairedTask, recipe: QuantRecipe) -> None:
    # Without rules the loaded model decides: `_refuse_unpaired_model` says `unsupported` for one that came quantized.
    if recipe.rules and recipe.backend.kind != "real":
        raise ConfigError(
            f"quant must be a recipe of a real backend for {task.name}, which holds it against its fake-quantized form, got "
            f"{recipe.name}; try quant=int8_row_real, or add backend@quant.backend=scaled_mm"
        )


def _refuse_unpaired_model(spec: RunSpec, loaded: LoadedModel) -> None:
    """Raise an error for a paired task on a model that has no fake-quantized form."""
    task, recipe = spec.task, spec.recipe
    if not isinstance(task, PairedTask):
        return
    if loaded.prequantized is not None or (loaded.came_quantized and not recipe.rules):
        raise UnsupportedRecipe(
            f"{task.name} holds a recipe of a real backend against its fake-quantized form, got a {loaded.origin}, which has no recipe; "
            "run it on the float model (model=..., quant=NAME_real), or hold the checkpoint against that model: task=divergence "
            "+model@model.baseline=..."
        )
    if not recipe.rules:
        raise ConfigError(
            f"quant must be a recipe of a real backend for {task.name}, got {recipe.name}; try quant=int8_row_real"
        )


def _refuse_recipe(task: ModelFreeTask, recipe: QuantRecipe) -> None:
    if recipe.rules:
        raise ConfigError(
            f"quant must be none for {task.name}, which needs no model, got {recipe.name}; "
            "leave quant out"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How a run ended, for the one line that is printed."""

    label: str
    skipped: bool
    """The run was on file already."""
    path: Path
    headline: Metric | None
    beside: str = ""
    """Ratios of a timed run, each with the name of what it is to."""
    warnings: tuple[str, ...] = ()
    """What a user must know of the value."""

    def summary(self) -> str:
        """Return the headline with interval and n, and whether it was measured now."""
        how = "already on file, skipped (force=true repeats it)" if self.skipped else "done"
        return "; ".join(filter(None, (figures.one_line(self.headline), self.beside, how)))


def run(spec: RunSpec) -> Outcome:
    """Run a specification, unless an identical run is on file, and file its record.

    Raises:
        HarnessError: Some stage failed; the record on file says so too.
    """
    identity = config_hash(spec.resolved, spec.device.type)
    # What is on file can be read where nothing can be written.
    before, problems = spec.store.find(identity, **spec.place)
    for problem in problems:
        log.warning("%s", problem)
    if done := _on_file(spec, before):
        return _outcome(spec, done, skipped=True)
    with spec.store.claim(identity):
        known, _ = spec.store.find(identity, **spec.place)
        # Another process may have run it in the meantime.
        if known != before and (done := _on_file(spec, known)):
            return _outcome(spec, done, skipped=True)
        spec.store.close_abandoned(known)
        stored = _measure_and_file(spec, identity, next_attempt(known))
        return _outcome(spec, stored, skipped=False)


def _on_file(spec: RunSpec, known: Sequence[Stored]) -> Stored | None:
    """Return the record that makes a run unnecessary, if there is one among those of its configuration."""
    if spec.force:
        return None
    code = foreign_code(spec.resolved)
    return same_run(known, spec.model, spec.recipe, spec.task, spec.device, code)


def _measure_and_file(spec: RunSpec, identity: str, attempt: int) -> Stored:
    """Open a record, measure, and close the record whatever happens."""
    spec.store.check_room()
    created, started = datetime.now(UTC), time.perf_counter()
    record = RunRecord(
        run_id=f"{identity[:12]}-{created:%Y%m%dT%H%M%S%f}",
        config_hash=identity,
        status=Status.RUNNING,
        created=created,
        attempt=attempt,
        command=provenance.command_line(),
        config=dict(spec.resolved),
        recipe=spec.recipe.name,
        provenance=provenance.collect(spec.task.seeds, spec.device, foreign_code(spec.resolved)),
    )
    path = spec.store.path(record, **spec.place)
    spec.store.write(path, record)
    try:
        counted_since = memory.reset(spec.device)
        update = _measure(spec, path)
        update["duration_s"] = time.perf_counter() - started
        update["peak_memory"] = memory.peak(spec.device, counted_since)
        # Validated again, so that no field of a record on file is unchecked.
        whole = RunRecord.model_validate(record.model_copy(update=update).model_dump())
        with _told_if_lost(whole.metrics):
            spec.store.write(path, whole)
    except BaseException as reason:
        ended_by = signals.received() or reason
        failed = {
            "status": _status_of(ended_by),
            "error": _chain(ended_by),
            "duration_s": time.perf_counter() - started,
        }
        _file_failure(spec, path, record.model_copy(update=failed), reason)
        raise
    return Stored(path=path, record=whole)


def _file_failure(spec: RunSpec, path: Path, record: RunRecord, reason: BaseException) -> None:
    """Write a record that says what ended the run; if that cannot be written either, what ended the run is still what is raised."""
    try:
        spec.store.write(path, record)
    except OutputError as unwritable:
        if not isinstance(reason, OutputError):
            log.error("%s", unwritable)


def _measure(spec: RunSpec, path: Path) -> dict[str, Any]:
    """Load, quantize, measure; return the fields of the record that this fills."""
    if isinstance(spec.task, ModelFreeTask):
        with _alone(spec):
            result = spec.task.run_on(spec.device)
        return _result_fields(spec, path, result) | {"warnings": result.warnings}
    _refuse(spec)
    # Data that cannot be had end the run before minutes of loading.
    spec.task.data_facts()
    calibration_of(spec.recipe)
    loaded = cache.load(spec.model, spec.device)
    _refuse_unpaired_model(spec, loaded)
    _refuse_dequantized(spec, loaded)
    try:
        # What is timed is the installed library, as it is.
        chosen = products.choose_way(loaded, provenance.cpu_flags())
        how = "native" if spec.task.is_timed else chosen
        info = _describe(loaded, how)
        with products.multiplied(how):
            quantized, result = _quantize_and_run(spec, loaded)
        audit_after(loaded)
    finally:
        loaded.restore()
    return _result_fields(spec, path, result) | {
        "model": info,
        "quant": quantized.report,
        "warnings": (
            *loaded.warnings,
            *quantized.warnings,
            *result.warnings,
            *overlap_warnings(spec.recipe, spec.task),
        ),
    }


def _refuse(spec: RunSpec) -> None:
    """Raise an error for a run whose number would mean nothing."""
    task, recipe = spec.task, spec.recipe
    if task.is_timed and recipe.rules and recipe.backend.kind == "fake-quant":
        raise UnsupportedRecipe(
            f"a recipe must be one of a real backend for {task.name}, got {recipe.name}, which is fake-quantized: it computes "
            "in the float type and has no speed of its own; add backend@quant.backend=scaled_mm, torchao or bitsandbytes"
        )
    if task.needs_trained_weights and spec.model.weights == "random":
        raise ConfigError(
            f"model.weights must be pretrained for {task.name}, got random, of which no quality can be measured; "
            "leave model.weights out, or choose task=throughput"
        )


def _refuse_dequantized(spec: RunSpec, loaded: LoadedModel) -> None:
    """Raise UnsupportedRecipe for the speed of a checkpoint that was dequantized when it was loaded."""
    stored = loaded.prequantized or loaded.dequantized
    dequantized = stored is not None and stored.kind == "fake-quant"
    if spec.task.is_timed and dequantized and not spec.recipe.rules:
        raise UnsupportedRecipe(
            f"a checkpoint must be multiplied as it is stored to have a speed, got a {loaded.origin}; choose another task"
        )


def _quantize_and_run(spec: RunSpec, loaded: LoadedModel) -> tuple[Quantized, TaskResult]:
    """Quantize the model and measure it; for a paired task, after its fake-quantized form."""
    task, recipe = spec.task, spec.recipe
    if isinstance(task, PairedTask):
        quantize(loaded, recipe, backend=FakeBackend())
        log.info("%s, fake-quantized: measuring %s", recipe.name, task.name)
        reference = task.reference(loaded)
        loaded.restore()
        quantized = quantize(loaded, recipe)
        log.info("%s: measuring %s", recipe.name, task.name)
        return quantized, task.run_beside(
            loaded, reference, recipe.backend.tolerance, quantized.report.compute
        )
    assert isinstance(task, Task)  # noqa: S101 - RunSpec.build has checked it
    quantized = quantize(loaded, recipe)
    log.info("%s: measuring %s", recipe.name, task.name)
    with _alone(spec):
        return quantized, task.run(loaded)


def _alone(spec: RunSpec) -> AbstractContextManager[None]:
    """Keep other timed runs off the device while a timed task runs."""
    return devices.exclusive(spec.device) if spec.task.is_timed else nullcontext()


def _result_fields(spec: RunSpec, path: Path, result: TaskResult) -> dict[str, Any]:
    with _told_if_lost(result.metrics):
        samples_file, samples_sha256 = spec.store.write_samples(path, result.samples)
    return {
        "status": Status.OK,
        "task": result.info,
        "baseline": result.baseline,
        "metrics": result.metrics,
        "samples_file": samples_file,
        "samples_sha256": samples_sha256,
    }


@contextmanager
def _told_if_lost(metrics: Sequence[Metric]) -> Iterator[None]:
    """Print the first value of a run that cannot be filed: it may have taken hours."""
    try:
        yield
    except OutputError:
        log.error("measured, but not on file: %s", figures.one_line(next(iter(metrics), None)))
        raise


def _describe(loaded: LoadedModel, how: products.MatmulWay) -> ModelInfo:
    count, float_bytes = loaded.num_parameters, sum(p.nbytes for p in loaded.module.parameters())
    if (stored := loaded.prequantized) is not None:  # codes are no parameters
        count, float_bytes = stored.num_parameters, stored.num_parameters * loaded.dtype.itemsize
    return ModelInfo(
        name=loaded.name,
        dtype=loaded.dtype_name,
        device=loaded.device.type,
        attention=loaded.attention,
        products=how,
        fingerprint=loaded.fingerprint,
        baseline=loaded.baseline.fingerprint() if loaded.baseline is not None else None,
        revision=loaded.revision,
        architecture=type(loaded.module).__name__,
        origin=loaded.origin,
        weights=loaded.weights,
        num_parameters=count,
        float_bytes=float_bytes,
    )


def _status_of(reason: BaseException) -> Status:
    for kind, status in STATUS_OF.items():
        if isinstance(reason, kind):
            return status
    return Status.ERROR


def _chain(reason: BaseException) -> str:
    """Return what went wrong: the message of an error that explains itself, else the traceback."""
    if isinstance(reason, KeyboardInterrupt):
        return signals.describe(reason)
    if isinstance(reason, HarnessError):
        return f"{type(reason).__name__}: {reason}"
    return "".join(traceback.format_exception(reason))


def _outcome(spec: RunSpec, stored: Stored, *, skipped: bool) -> Outcome:
    return Outcome(
        label=f"{spec.recipe.name} {spec.task.name}",
        skipped=skipped,
        path=stored.path,
        headline=next(iter(stored.record.metrics), None),
        beside=float_paths.speeds_in_words(stored.record.metric),
        warnings=stored.record.warnings,
    )
