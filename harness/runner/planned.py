"""What a run will be able to show, and how long it will take: before a run, or instead of one."""

import logging
from collections.abc import Sequence
from dataclasses import replace

from harness import signals
from harness.claims.measure import Measure, measure_of
from harness.errors import ConfigError, HarnessError
from harness.machine import provenance
from harness.messages import spoilt_by
from harness.plan.delta import read_delta, read_flip_rate
from harness.plan.expected import assumed_flips, observed
from harness.plan.on_file import Pair, alike, latest_pair, limit_key, nearest_time, size_of
from harness.plan.plan import Basis, Plan, Samples, Times, other_size
from harness.plan.sentences import one_line
from harness.results.store import Stored
from harness.runner.probe import probe
from harness.runner.spec import RunSpec
from harness.tasks.mmlu import MMLU

log = logging.getLogger(__name__)

FLIP_RATE = 0.05
"""Share of the answers that is assumed to flip where nothing was observed."""


def announce(spec: RunSpec) -> None:
    """Log what a run will be able to show and how long it takes, from records on file."""
    try:
        line = before(spec)
    except HarnessError:  # data that cannot be had is the error of the run that begins now
        return
    except Exception as reason:  # a record of others may make anything fail
        if signals.received():
            raise
        line = f"no estimate: {spoilt_by(reason)}"
    if line is not None:
        log.info("%s", line)


def before(spec: RunSpec) -> str | None:
    """Return what a run will be able to show and how long it takes, as far as records say it."""
    measure = measure_of(_task_name(spec))
    if measure is None:
        return None
    known = _known(spec)
    samples = _samples(spec, known)
    size = None if samples is None else samples.num_items
    basis = _basis(spec, measure, known)
    hardware = provenance.hardware(spec.device)
    return one_line(measure, size, basis, nearest_time(known, hardware, size, spec.recipe.name))


def plan(spec: RunSpec, delta: str | None, flip_rate: str | None) -> Plan:
    """Return what a difference takes, and what a run can show; measures how long if nobody did.

    Args:
        spec: The run.
        delta: The difference with its unit; None is the resolution of the task's measure.
        flip_rate: Share of the answers that is assumed to flip, such as `5%`; None takes the share
            that two runs on file show, or else `FLIP_RATE`.

    Raises:
        ConfigError: The task has no samples that are paired, or a size is wrong.
        HarnessError: The run cannot be made.
    """
    measure = measure_of(_task_name(spec))
    if measure is None:
        raise ConfigError(
            "task must be one whose samples are compared one by one (mmlu, perplexity, divergence "
            f"and their variants), got {spec.task.name}; choose another task"
        )
    size = measure.resolution if delta is None else read_delta(delta, measure)
    rate = None if flip_rate is None else read_flip_rate(flip_rate)
    if rate is not None and measure.item != "question":
        raise ConfigError(
            f"flip_rate must be left out for {spec.task.name}, whose samples are not answers, got "
            f"{flip_rate}"
        )
    known = _known(spec)
    basis = _basis(spec, measure, known, rate)
    samples, times = _timed(spec, known, basis, size)
    recipe = spec.recipe.name if spec.recipe.rules else "a recipe"
    return Plan(
        what=f"{spec.task.name} of {spec.place['model']}: {recipe} against the unquantized model",
        measure=measure,
        delta=size,
        samples=samples,
        basis=basis,
        times=times,
    )


def _timed(
    spec: RunSpec, known: Sequence[Stored], basis: Basis | None, delta: float
) -> tuple[Samples, Times]:
    """Return the samples and times of a run, from a record of about its size or by a probe."""
    samples = _samples(spec, known)
    if samples is None:
        return probe(spec, None)
    num, other = samples.num_items, other_size(samples, basis, delta)
    found = nearest_time(known, provenance.hardware(spec.device), num, spec.recipe.name)
    if found is None or not (found.is_near(num) and found.is_near(other or num)):
        return probe(spec, samples)
    return samples, found


def _task_name(spec: RunSpec) -> str:
    """Return the task that a run measures; of two rules of answers the first one's."""
    return spec.task.rules[0].task_name if isinstance(spec.task, MMLU) else spec.task.name


def _known(spec: RunSpec) -> list[Stored]:
    place = {key: name for key, name in spec.place.items() if key != "recipe"}
    return alike(spec.resolved, spec.store.of_task(**place))


def _limit(spec: RunSpec) -> int | None:
    """Return the questions, windows or documents of a run; None is all."""
    key = limit_key(spec.resolved)
    limit: int | None = None if key is None else spec.resolved["task"][key]
    return limit


def _num_subjects(spec: RunSpec) -> int | None:
    """Return the subjects of all questions that may be drawn; None for a text."""
    if not isinstance(spec.task, MMLU):
        return None
    return len({question.subject for question in replace(spec.task, limit=None).questions()})


def _samples(spec: RunSpec, known: Sequence[Stored]) -> Samples | None:
    """Return the samples of a run without loading a model; None if records do not say."""
    if isinstance(spec.task, MMLU):
        number, available = (
            len(task.questions()) for task in (spec.task, replace(spec.task, limit=None))
        )
        return Samples(num_items=number, available=available)
    size = size_of(spec.resolved, known, _limit(spec))
    if size is None:
        return None
    of_window = limit_key(spec.resolved) == "limit_windows"
    return Samples(
        num_items=size,
        available=size_of(spec.resolved, known, None),
        items_per_window=size_of(spec.resolved, known, 1) if of_window else None,
    )


def _basis(
    spec: RunSpec,
    measure: Measure,
    known: Sequence[Stored],
    flip_rate: float | None = None,
) -> Basis | None:
    """Return what is expected of a difference: as typed, as observed, or as assumed."""
    recipe = spec.recipe.name if spec.recipe.rules else None
    if flip_rate is None and (pair := latest_pair(known, _task_name(spec), recipe)):
        found = observed(pair.difference)
        if found is not None:
            return Basis(expected=found, fact=_observed(pair, measure), is_assumed=False)
    if measure.item != "question":
        return None
    rate = flip_rate or FLIP_RATE
    return Basis(
        expected=assumed_flips(rate, _num_subjects(spec)),
        fact=f"{100 * rate:.3g} % of the answers flip",
        is_assumed=True,
    )


def _observed(pair: Pair, measure: Measure) -> str:
    found, labels = pair.difference, f"{pair.row.label} and {pair.reference.label}"
    if found.num_flips is None:
        return f"{labels} over {found.num_items:,} {measure.item}s"
    return f"{found.num_flips:,} of {found.num_items:,} answers flipped between {labels}"
