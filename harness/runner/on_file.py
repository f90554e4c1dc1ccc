"""Whether a run is on file.

An identical run has the same configuration, weights, data, calibration text and version of the
task, and its samples are intact. A timed run also has the same hardware, and a run with classes of
a user's own the same source.
"""

import logging
from collections.abc import Sequence

from harness.machine import provenance
from harness.models.loaded import ModelSource
from harness.recipe import QuantRecipe
from harness.results.evidence import lost_evidence
from harness.results.outdated import outdated
from harness.results.record import CalibrationInfo, RunRecord, Status
from harness.results.store import Stored
from harness.runner.foreign_code import foreign_code
from harness.runner.spec import RunSpec

log = logging.getLogger(__name__)

Fingerprints = tuple[str | None, str | None]
"""What identifies the weights of a model, and of its baseline."""


def same_run(spec: RunSpec, known: Sequence[Stored]) -> Stored | None:
    """Return the latest record of an identical run, or None if it must be measured.

    A run whose samples are lost or altered does not count, and a warning names it.

    Args:
        spec: The run.
        known: Records with the hash of its configuration, oldest first.
    """
    done = [item for item in known if item.record.status is Status.OK]
    if not done:
        return None
    # The weights are identified without being loaded.
    weights = _weights(spec.model)
    facts = spec.task.data_facts() | spec.engine.facts()
    calibration = calibration_of(spec.recipe)
    hardware = provenance.hardware(spec.device)
    code = foreign_code(spec.resolved)
    for item in reversed(done):
        record = item.record
        if record.task is None or outdated(record):
            continue
        same = (
            _weights_on_file(record) == weights,
            all(record.task.data.get(key) == value for key, value in facts.items()),
            record.task.version == spec.task.version,
            spec.model is None or is_of_recipe(record, spec.recipe, calibration),
            not spec.task.is_timed or record.provenance.hardware == hardware,
            record.provenance.foreign_code == code,
        )
        if not all(same):
            continue
        if lost := lost_evidence(item):
            log.warning("not on file, measured again: %s", lost)
            continue
        return item
    return None


def _weights(source: ModelSource | None) -> Fingerprints:
    if source is None:
        return None, None
    baseline: ModelSource | None = getattr(source, "baseline", None)
    return source.fingerprint(), baseline.fingerprint() if baseline is not None else None


def _weights_on_file(record: RunRecord) -> Fingerprints:
    return (record.model.fingerprint, record.model.baseline) if record.model else (None, None)


def calibration_of(recipe: QuantRecipe) -> CalibrationInfo | None:
    """Return what identifies the text that a recipe is calibrated on; None without such a text.

    Raises:
        DataError: The text cannot be had.
    """
    return recipe.calibrated_on.info() if recipe.calibrated_on is not None else None


def is_of_recipe(
    record: RunRecord, recipe: QuantRecipe, calibration: CalibrationInfo | None
) -> bool:
    """Return whether a record of the same configuration is of the same recipe and calibration text.

    Name and order of rules must agree too. The order counts, because the first rule that matches
    decides, and the hash of a configuration has sorted keys. Records of earlier versions without
    name and text do not agree.
    """
    quant = record.quant
    if quant is None or (quant.name, quant.calibration) != (recipe.name, calibration):
        return False
    return not recipe.rules or list(quant.formats) == list(recipe.rules)
