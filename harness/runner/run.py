"""One run, start to finish."""

import logging
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, assert_never

from harness import signals
from harness.backends.fake import FakeBackend
from harness.claims.at_once import at_once
from harness.engines.base import Engine
from harness.errors import (
    HarnessError,
    InvalidResult,
    OutputError,
    UnsupportedEngine,
    UnsupportedRecipe,
)
from harness.identity import config_hash
from harness.machine import devices, memory, provenance
from harness.models.loaded import LoadedModel
from harness.recipe import Quantized, quantize
from harness.results import float_paths
from harness.results import formatting as figures
from harness.results.record import Metric, RunRecord, Status
from harness.results.store import Stored, next_attempt
from harness.runner import checks
from harness.runner.foreign_code import foreign_code
from harness.runner.loading import loaded_model
from harness.runner.on_file import same_run
from harness.runner.planned import announce, spoilt_by
from harness.runner.spec import RunSpec
from harness.tasks.base import ModelFreeTask, PairedTask, Task, TaskResult

log = logging.getLogger(__name__)

STATUS_OF: Mapping[type[BaseException], Status] = MappingProxyType(
    {
        KeyboardInterrupt: Status.CANCELLED,
        InvalidResult: Status.INVALID,
        UnsupportedRecipe: Status.UNSUPPORTED,
        UnsupportedEngine: Status.UNSUPPORTED,
    }
)
"""Error -> status of the record of a run that it ended; any other error is `error`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """The record of a run, and whether it was measured now."""

    label: str
    """Recipe and task."""
    stored: Stored
    skipped: bool
    """An identical run was on file."""
    compared: tuple[str, ...] = ()
    """What it says beside the baseline on file, in sentences."""

    @property
    def path(self) -> Path:
        """The file of the record."""
        return self.stored.path

    @property
    def headline(self) -> Metric | None:
        """The first metric of the record."""
        return next(iter(self.stored.record.metrics), None)

    def summary(self) -> str:
        """Return one line: headline with interval and n, ratios of speeds, measured or skipped."""
        beside = float_paths.speeds_in_words(self.stored.record.metric)
        how = "already on file, skipped (force=true repeats it)" if self.skipped else "done"
        shown = filter(None, (figures.one_line(self.headline), beside, how))
        return "; ".join(shown)


def run(spec: RunSpec) -> Outcome:
    """Make a run and file its record, unless an identical run is on file; then send the record on.

    Raises:
        HarnessError: A stage failed. The record says so too, unless it cannot be written. Or a sink
            failed; then the record is on file.
    """
    outcome = _filed(spec)
    spec.sinks.send(outcome.stored, outcome.compared)
    return outcome


def _filed(spec: RunSpec) -> Outcome:
    """Return the run that is on file, or make it and file its record."""
    identity = config_hash(spec.resolved, spec.device.type)
    label = f"{spec.recipe.name} {spec.task.name}"
    # Before the hold: a record on file can be read where nothing can be written.
    before, problems = spec.store.find(identity, **spec.place)
    for problem in problems:
        log.warning("%s", problem)
    if done := _on_file(spec, before):
        return _outcome(spec, label, done, skipped=True)
    with spec.store.hold(identity):
        known, _ = spec.store.find(identity, **spec.place)
        # Another process may have made the run while this one waited for the hold.
        if known != before and (done := _on_file(spec, known)):
            return _outcome(spec, label, done, skipped=True)
        spec.store.close_abandoned(known)
        stored = _measure_and_file(spec, identity, next_attempt(known))
        return _outcome(spec, label, stored, skipped=False)


def _outcome(spec: RunSpec, label: str, stored: Stored, *, skipped: bool) -> Outcome:
    return Outcome(
        label=label, stored=stored, skipped=skipped, compared=tuple(_compared(spec, stored))
    )


def _compared(spec: RunSpec, stored: Stored) -> list[str]:
    """Return what a run says beside the records on file; the run itself has ended well or not."""
    try:
        return at_once(stored, spec.store.beside(stored.path))
    except Exception as reason:  # a record of others may make anything fail
        if signals.received():
            raise
        return [f"not compared: {spoilt_by(reason)}"]


def _on_file(spec: RunSpec, known: Sequence[Stored]) -> Stored | None:
    return None if spec.force else same_run(spec, known)


def _measure_and_file(spec: RunSpec, identity: str, attempt: int) -> Stored:
    """Open a record, measure, and close the record whatever happens."""
    spec.store.check_room()
    started = time.perf_counter()
    record = _opened(spec, identity, attempt)
    path = spec.store.path(record, **spec.place)
    try:
        # A signal may come as soon as the file is there.
        spec.store.write(path, record)
        announce(spec)
        counted_since = memory.reset(spec.device)
        update = _measure(spec, path)
        update["duration_s"] = time.perf_counter() - started
        update["peak_memory"] = memory.peak(spec.device, counted_since)
        # Validated again: `model_copy` checks nothing.
        whole = RunRecord.model_validate(record.model_copy(update=update).model_dump())
        with _shown_if_lost(whole.metrics):
            spec.store.write(path, whole)
    except BaseException as reason:
        ended_by = signals.received() or reason
        failed = {
            "status": _status_of(ended_by),
            "error": _in_words(ended_by),
            "duration_s": time.perf_counter() - started,
        }
        _file_failure(spec, path, record.model_copy(update=failed), reason)
        raise
    return Stored(path=path, record=whole)


def _opened(spec: RunSpec, identity: str, attempt: int) -> RunRecord:
    """Return the record of a run that starts now."""
    created = datetime.now(UTC)
    return RunRecord(
        run_id=f"{identity[:12]}-{created:%Y%m%dT%H%M%S%f}",
        config_hash=identity,
        status=Status.RUNNING,
        created=created,
        attempt=attempt,
        command=spec.command,
        config=dict(spec.resolved),
        recipe=spec.recipe.name,
        provenance=provenance.collect(spec.task.seeds, spec.device, foreign_code(spec.resolved)),
    )


def _file_failure(spec: RunSpec, path: Path, record: RunRecord, reason: BaseException) -> None:
    """Write the record of a run that failed; log why it cannot be: `reason` is raised next."""
    try:
        spec.store.write(path, record)
    except OutputError as unwritable:
        if not isinstance(reason, OutputError):
            log.error("%s", unwritable)


def _measure(spec: RunSpec, path: Path) -> dict[str, Any]:
    """Load, quantize, measure; return the fields that this adds to the record."""
    match spec.task:
        case ModelFreeTask() as task:
            with _alone(spec):
                result = task.run_on(spec.device)
            return _result_fields(spec, path, result) | {"warnings": result.warnings}
        case Task() as task if spec.model is None:
            return _measure_own_model(spec, path, task)
        case PairedTask() as task:
            with loaded_model(spec, task) as (loaded, info):
                quantized, result = _measure_real_beside_fake(spec, task, loaded)
        case Task() as task:
            with loaded_model(spec, task) as (loaded, info):
                quantized = quantize(loaded, spec.recipe)
                log.info("%s: measuring %s", spec.recipe.name, task.name)
                with _alone(spec), spec.engine.start(loaded, spec.device) as engine:
                    result = _asked(task, engine)
        case _:
            assert_never(spec.task)
    return _result_fields(spec, path, result) | {
        "model": info,
        "quant": quantized.report,
        "warnings": (
            *loaded.warnings,
            *quantized.warnings,
            *result.warnings,
            *checks.overlap_warnings(spec.recipe, task),
        ),
    }


def _measure_own_model(spec: RunSpec, path: Path, task: Task) -> dict[str, Any]:
    """Ask an engine that loads its own model; return the fields that this adds to the record."""
    checks.check_asked(task, spec.engine)
    log.info("%s: measuring %s", spec.engine.label, task.name)
    with _alone(spec), spec.engine.start(None, spec.device) as engine:
        result = _asked(task, engine)
    facts = spec.engine.facts()
    info = result.info.model_copy(
        update={
            "protocol": f"{result.info.protocol}|engine={spec.engine.label}",
            "data": result.info.data | facts,
            "needs_model": False,
        }
    )
    return _result_fields(spec, path, replace(result, info=info)) | {"warnings": result.warnings}


def _asked(task: Task, engine: Engine) -> TaskResult:
    """Run a task on an engine, and add the engine's warnings to the result."""
    result = task.run(engine)
    return replace(result, warnings=(*result.warnings, *engine.warnings()))


def _measure_real_beside_fake(
    spec: RunSpec, task: PairedTask, loaded: LoadedModel
) -> tuple[Quantized, TaskResult]:
    """Measure the fake-quantized form of a recipe, then the recipe beside it."""
    recipe = spec.recipe
    quantize(loaded, recipe, backend=FakeBackend())
    log.info("%s, fake-quantized: measuring %s", recipe.name, task.name)
    with spec.engine.start(loaded, spec.device) as engine:
        reference = task.reference(engine)
        loaded.restore()
        quantized = quantize(loaded, recipe)
        log.info("%s: measuring %s", recipe.name, task.name)
        tolerance, compute = recipe.backend.tolerance, quantized.report.compute
        return quantized, task.run_beside(engine, reference, tolerance, compute)


def _alone(spec: RunSpec) -> AbstractContextManager[None]:
    """Context manager that keeps other timed runs off the device, if the task is timed."""
    return devices.exclusive(spec.device) if spec.task.is_timed else nullcontext()


def _result_fields(spec: RunSpec, path: Path, result: TaskResult) -> dict[str, Any]:
    """Write the samples of a result; return its fields of the record."""
    with _shown_if_lost(result.metrics):
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
def _shown_if_lost(metrics: Sequence[Metric]) -> Iterator[None]:
    """Context manager: log the headline if it cannot be filed, after hours perhaps."""
    try:
        yield
    except OutputError:
        log.error("measured, but not on file: %s", figures.one_line(next(iter(metrics), None)))
        raise


def _status_of(reason: BaseException) -> Status:
    kinds = (status for kind, status in STATUS_OF.items() if isinstance(reason, kind))
    return next(kinds, Status.ERROR)


def _in_words(reason: BaseException) -> str:
    """Return the message of an error that explains itself, else the traceback."""
    if isinstance(reason, KeyboardInterrupt):
        return signals.describe(reason)
    if isinstance(reason, HarnessError):
        return f"{type(reason).__name__}: {reason}"
    return "".join(traceback.format_exception(reason))
