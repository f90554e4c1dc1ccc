"""What a run's recipe is fitted to: part of the run's identity, and compared with what the run scores."""

from harness.data import overlap
from harness.recipe import QuantRecipe
from harness.results.record import CalibrationInfo, RunRecord
from harness.tasks.base import ModelFreeTask, PairedTask, ScoresData, Task


def calibration_of(recipe: QuantRecipe) -> CalibrationInfo | None:
    """Return what identifies the text that a recipe is fitted to, without a model; None if it looks at none.

    Raises:
        DataError: The text cannot be had.
    """
    return recipe.calibrated_on.info() if recipe.calibrated_on is not None else None


def is_of_recipe(
    record: RunRecord, recipe: QuantRecipe, calibration: CalibrationInfo | None
) -> bool:
    """Say whether a record of the same configuration is of a recipe, fitted to the same text.

    Records made before both were kept are measured again if the recipe looks at a text, or has changed parts that its name did not say.
    The order of rules, of which the first that matches decides, is compared because hashes of configurations have sorted keys.
    """
    quant = record.quant
    if quant is None or (quant.name, quant.calibration) != (recipe.name, calibration):
        return False
    return not recipe.rules or list(quant.formats) == list(recipe.rules)


def overlap_warnings(
    recipe: QuantRecipe, task: Task | PairedTask | ModelFreeTask
) -> tuple[str, ...]:
    """Say what of the data that a task scores stands in the text that a recipe is fitted to."""
    # A speed and a comparison of two forms of one recipe are no score on that text.
    if recipe.calibrated_on is None or task.is_timed or isinstance(task, PairedTask):
        return ()
    text = recipe.calibrated_on.text()
    if not isinstance(task, ScoresData):
        return (
            f"what {task.name} scores was not compared with {text.name}, which the recipe is calibrated on",
        )
    return tuple(
        f"{found} stand in {text.name}, which the recipe is calibrated on: scores of it are too good"
        for found in overlap.shared_with(text, task.scored())
    )
