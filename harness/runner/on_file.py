"""Whether a run is on file: the same configuration on the same weights, data and calibration text, with its samples intact.

A speed is on file for the machine that it was measured on, and what a user's own code made for the source of that code.
"""

import logging
from collections.abc import Mapping, Sequence

import torch

from harness.machine import provenance
from harness.models.loaded import ModelSource
from harness.recipe import QuantRecipe
from harness.results.evidence import lost_evidence
from harness.results.outdated import outdated
from harness.results.record import Status
from harness.results.store import Stored
from harness.runner.calibrated import calibration_of, is_of_recipe
from harness.tasks.base import ModelFreeTask, PairedTask, Task

log = logging.getLogger(__name__)


def same_run(
    known: Sequence[Stored],
    model: ModelSource,
    recipe: QuantRecipe,
    task: Task | PairedTask | ModelFreeTask,
    device: torch.device,
    code: Mapping[str, str],
) -> Stored | None:
    """Return the latest whole run among the records of a configuration, or None if it must be measured.

    A run whose samples are gone or altered is named in a warning, and does not count.

    Args:
        known: Records with the hash of the configuration, oldest first.
        model: Where the weights come from; they are identified without being loaded.
        recipe: What the weights are quantized with.
        task: What is measured.
        device: What it is measured on.
        code: The code outside of this package that the configuration names; see `harness.runner.foreign_code`.
    """
    done = [item for item in known if item.record.status is Status.OK]
    if not done:
        return None
    alone = isinstance(task, ModelFreeTask)
    fingerprints = (None, None) if alone else _fingerprints(model)
    facts = task.data_facts()
    calibration = calibration_of(recipe)
    hardware = provenance.hardware(device)
    for item in reversed(done):
        record = item.record
        if record.task is None or outdated(record):
            continue
        measured = (
            (record.model.fingerprint, record.model.baseline) if record.model else (None, None)
        )
        same = (
            measured == fingerprints,
            all(record.task.data.get(key) == value for key, value in facts.items()),
            record.task.version == task.version,
            alone or is_of_recipe(record, recipe, calibration),
            not task.is_timed or record.provenance.hardware == hardware,
            record.provenance.foreign_code == code,
        )
        if all(same):
            if lost := lost_evidence(item):
                log.warning("not on file, measured again: %s", lost)
                continue
            return item
    return None


def _fingerprints(source: ModelSource) -> tuple[str, str | None]:
    """Return what identifies the weights of a model and of its baseline."""
    baseline: ModelSource | None = getattr(source, "baseline", None)
    return source.fingerprint(), baseline.fingerprint() if baseline is not None else None
