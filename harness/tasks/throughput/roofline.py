"""Utilization of the machine: `harness.timing.roofline` for the models that were timed.

Bytes and operations follow from the shape of the model and its weights as stored. Bandwidth and
peaks are measured on this device (`harness.machine.peaks`), for the size that is streamed and the
types that are multiplied. A model whose costs do not follow from its shape has no utilization; the
note of the metric gives the reason.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

import torch

from harness.engines.timed import NoShape, TimedModel
from harness.machine import peaks as machine
from harness.results.formatting import si
from harness.tasks.throughput.subject import LABELS
from harness.tasks.throughput.times import NO_STAMPS, SubjectTimes
from harness.timing import roofline
from harness.timing.roofline import Shape

MOST_TRIES = 3
"""Number of measurements of the machine before a utilization above 1 is an error."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Utilization:
    """Shares of the peaks of the machine."""

    mbu: float | None
    """Share of the bandwidth, in decode."""
    mbu_note: str
    mfu: float | None
    """Share of the arithmetic, in prefill."""
    mfu_note: str


class Costs(NamedTuple):
    """What all subjects have in common: quantization changes neither sizes nor attention."""

    shape: Shape
    attention_types: tuple[str, ...]
    device: torch.device


def utilizations(
    subjects: Mapping[str, TimedModel], times: Mapping[str, SubjectTimes]
) -> dict[str, Utilization]:
    """Return the utilization of each subject by its name; sizes are those of the first one.

    Raises:
        InvalidResult: A utilization is above 1.
    """
    first = next(iter(subjects.values()))
    try:
        if not all(times[name].rounds for name in subjects):
            raise NoShape(NO_STAMPS)
        costs = Costs(first.shape(), first.attention_types, torch.device(first.device))
    except NoShape as reason:
        absent = Utilization(mbu=None, mbu_note=str(reason), mfu=None, mfu_note=str(reason))
        return dict.fromkeys(subjects, absent)
    return {
        name: _utilization(costs, name, subject, times[name]) for name, subject in subjects.items()
    }


def _utilization(costs: Costs, name: str, subject: TimedModel, times: SubjectTimes) -> Utilization:
    mbu, mbu_note = _mbu(costs, name, subject, times)
    mfu, mfu_note = _mfu(costs, name, subject, times)
    return Utilization(mbu=mbu, mbu_note=mbu_note, mfu=mfu, mfu_note=mfu_note)


def _mbu(
    costs: Costs, name: str, subject: TimedModel, times: SubjectTimes
) -> tuple[float | None, str]:
    size = times.size
    cost = roofline.decode(costs.shape, subject.streamed_bytes, size.batch, size.prompt, size.new)
    achieved = cost.num_bytes * size.steps / median(times.decode_s)
    read = machine.read_bandwidth(int(cost.num_bytes))
    try:
        value, peaks = _measured(
            costs.device, [read, machine.COPY], lambda peaks: achieved / max(peaks.values())
        )
    except RuntimeError as reason:
        return None, f"bandwidth could not be measured: {reason}"
    note = (
        f"{si(cost.num_bytes)}B a step, {si(achieved)}B/s; measured here: {si(peaks[read])}B/s "
        f"reading as many bytes again and again, {si(peaks[machine.COPY])}B/s copying"
    )
    return roofline.possible(f"decode_mbu of the {LABELS[name]}", value), note


def _mfu(
    costs: Costs, name: str, subject: TimedModel, times: SubjectTimes
) -> tuple[float | None, str]:
    size, seen = times.size, subject.matmuls["prefill"]
    work = seen.work
    # Of the types that attention may compute in, the faster one counts.
    attends = costs.attention_types
    types = sorted({*attends, *work})
    if not work or (unknown := [dtype for dtype in types if dtype not in machine.MATMUL_TYPES]):
        return (
            None,
            f"the peak of matmuls in {unknown[0] if work else 'unknown types'} is not known",
        )
    cost = roofline.prefill(costs.shape, subject.streamed_bytes, size.batch, size.prompt)
    seconds = median(times.prefill_s)

    def used(peaks: Mapping[str, float]) -> float:
        by_type = {dtype: peaks[machine.matmul(dtype)] for dtype in types}
        attention = max(attends, key=by_type.__getitem__)
        return roofline.least_seconds(cost, work, by_type, attention=attention) / seconds

    try:
        value, peaks = _measured(costs.device, [machine.matmul(dtype) for dtype in types], used)
    except RuntimeError as reason:
        return None, f"the peak could not be measured: {reason}"
    total = sum(work.values())
    parts = ", ".join(
        f"{work.get(dtype, 0) / total:.0%} of matmuls in {dtype} "
        f"({si(peaks[machine.matmul(dtype)])}op/s)"
        for dtype in sorted(types, key=lambda dtype: -work.get(dtype, 0))
    )
    kernels = ", ".join(seen.kernels)
    note = f"{si(cost.matmul + cost.attention)} operations; {parts}, measured here; {kernels}"
    return roofline.possible(f"prefill_mfu of the {LABELS[name]}", value), note


def _measured(
    device: torch.device, questions: list[str], use: Callable[[Mapping[str, float]], float]
) -> tuple[float, Mapping[str, float]]:
    """Return a utilization and the peaks.

    A busy machine gives peaks that are too low: if the utilization is above 1, measure them again.
    """
    peaks = machine.peaks(device, questions)
    for _ in range(MOST_TRIES - 1):
        if use(peaks) <= 1:
            break
        peaks = machine.peaks(device, questions, again=True)
    return use(peaks), peaks
