"""What two runs are compared by: log-loss, accuracy or KL divergence."""

from collections.abc import Sequence
from dataclasses import dataclass

from harness.results import names


@dataclass(frozen=True, kw_only=True, slots=True)
class Measure:
    """A quantity whose paired difference is tested."""

    name: str
    """Its name in margins, such as `accuracy=1pp`."""
    tasks: Sequence[str]
    """Tasks that measure it."""
    higher_is_better: bool
    unit: str
    """Unit in which differences are written."""
    scale: float
    """What a difference is multiplied with to be written."""
    item: str
    """What a sample is."""
    resolution: float
    """Difference that a plan asks about unless a margin is given: small, but worth knowing."""


ACCURACY = Measure(
    name="accuracy",
    tasks=names.MMLU_TASKS,
    higher_is_better=True,
    unit="pp",
    scale=100.0,
    item="question",
    resolution=0.005,
)
LOG_LOSS = Measure(
    name="log_loss",
    tasks=names.PERPLEXITIES,
    higher_is_better=False,
    unit="nat/token",
    scale=1.0,
    item="token",
    resolution=0.005,
)
KL = Measure(
    name="kl",
    tasks=(names.DIVERGENCE,),
    higher_is_better=False,
    unit="nat/token",
    scale=1.0,
    item="token",
    resolution=0.005,
)
LEAD = Measure(
    name="lead",
    tasks=(names.MMLU_CLOZE,),
    higher_is_better=True,
    unit="nat/character",
    scale=1.0,
    item="question",
    resolution=0.005,
)
"""How far the right answer is ahead of the best wrong one. A second measure beside the accuracy of
its tasks: it moves before an answer flips."""
MEASURES = (ACCURACY, LOG_LOSS, KL)


def measure_of(task: str) -> Measure | None:
    """Return the measure of a task by its name; None if its runs are not paired item by item."""
    return next((measure for measure in MEASURES if task in measure.tasks), None)
