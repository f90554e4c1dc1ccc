"""What other runs show: a recipe that beats the baseline, a backend that is not its fake form."""

from collections.abc import Iterator, Sequence
from typing import Any

from harness.claims.claim import Answered, Claim
from harness.claims.grouping import Row, weights_of
from harness.claims.measure import LOG_LOSS
from harness.claims.sentences import NO_FLOOR, details, reference_of
from harness.claims.suspects.suspect import Suspect
from harness.claims.verdict import Verdict
from harness.results import formatting as figures
from harness.results import names


def better_than_unquantized(answered: Answered) -> Iterator[Suspect]:
    """Yield recipes that beat the baseline, corrected and by more than the noise floor."""
    for claim in answered.against_baseline.values():
        if isinstance(claim, Claim) and claim.verdict is Verdict.BETTER:
            is_unknown = claim.evidence.measure is LOG_LOSS and claim.evidence.floor is None
            floor = f"; {NO_FLOOR}" if is_unknown else ""
            yield Suspect(
                row=claim.row,
                reason=(
                    f"better than {reference_of(claim)} ({details(claim)}){floor}; rounding only "
                    "loses information: look for calibration on the test's text, and repeat the "
                    "run on other samples"
                ),
            )


def real_unlike_fake(answered: Sequence[Answered]) -> Iterator[Suspect]:
    """Yield rows of real backends that `task=parity` found not to compute their fake form."""
    rows = [row for each in answered for row in each.group.rows]
    failed = {_backend(row): row for row in rows if row.value_of(names.WITHIN_TOLERANCE) == 0.0}
    for row in rows:
        found = failed.get(_backend(row)) if row.quant.kind == "real" else None
        if found is None or row.task.name == names.THROUGHPUT:
            continue
        worst = figures.show(found.metric(names.LAYER_DIFFERENCE), "3 digits")
        within = found.metric(names.WITHIN_TOLERANCE)
        yield Suspect(
            row=row,
            reason=(
                f"task=parity found that {row.quant.backend} does not compute its fake-quantized "
                f"form: a layer differs by {worst} ({within and within.note}); its quality is "
                "another recipe's: report it as that, or mend the backend"
            ),
        )


def _backend(row: Row) -> tuple[Any, ...]:
    """Return what a result of `task=parity` holds for."""
    quant, model = row.quant, row.model
    formats = tuple(sorted((quant.formats | quant.input_formats).items()))
    weights = weights_of(row.stored.record)
    return quant.name, quant.backend, formats, weights, model.dtype, model.device
