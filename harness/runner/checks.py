"""Why a run cannot be made, or its scores are too good; in the order in which it is found out.

1. `check_no_recipe`, `check_real_backend`: recipe and task contradict each other. Nothing is filed.
2. `check`: recipe, model or data do not fit the task. Found out before minutes of loading; filed.
3. `check_loaded`: the model that was loaded does not fit the task. Filed.
4. `overlap_warnings`: the recipe was calibrated on what the task scores. The record has a warning.
"""

from harness.data import overlap
from harness.engines.source import EngineSource
from harness.errors import ConfigError, UnsupportedEngine, UnsupportedRecipe
from harness.models.loaded import LoadedModel, ModelSource
from harness.recipe import QuantRecipe
from harness.tasks.base import ModelFreeTask, PairedTask, ScoresData, Task

DEFAULT_ENGINE = "local"


def check_no_recipe(what: str, recipe: QuantRecipe) -> None:
    """Check that no recipe is asked of a task without a model, or of a model that is not loaded.

    Args:
        what: The task or the engine.
        recipe: The recipe.

    Raises:
        ConfigError: A recipe has rules.
    """
    if recipe.rules:
        raise ConfigError(
            f"quant must be none for {what}, which quantizes no model, got {recipe.name}; "
            "leave quant out"
        )


def check_no_engine(task: ModelFreeTask, engine: EngineSource) -> None:
    """Check that no engine is asked of a task without a model.

    Raises:
        ConfigError: One is.
    """
    if engine.label != DEFAULT_ENGINE:
        raise ConfigError(
            f"engine must be {DEFAULT_ENGINE} for {task.name}, which asks no model, got "
            f"{engine.label}; leave engine out"
        )


def check_asked(task: Task | PairedTask, engine: EngineSource) -> None:
    """Check that an engine can answer all that a task asks.

    Raises:
        UnsupportedEngine: It cannot; no other engine takes its place.
    """
    for kind in task.asks:
        if reason := engine.starts.refuses(kind):
            raise UnsupportedEngine(
                f"engine must be one that can {kind} for {task.name}, got {engine.label}: "
                f"{reason}; leave engine out"
            )


def check_real_backend(task: PairedTask, recipe: QuantRecipe) -> None:
    """Check that a recipe has a real backend for a task that compares it with fake quantization.

    A recipe without rules passes: `check_loaded` decides by the model, which may come quantized.

    Raises:
        ConfigError: The recipe is fake-quantized.
    """
    if recipe.rules and recipe.backend.kind != "real":
        raise ConfigError(
            f"quant must be a recipe of a real backend for {task.name}, which compares it with "
            f"its fake-quantized form, got {recipe.name}; try quant=int8_row_real, or add "
            "backend@quant.backend=scaled_mm"
        )


def check(model: ModelSource, recipe: QuantRecipe, task: Task | PairedTask) -> None:
    """Check what can be known without loading a model.

    Raises:
        UnsupportedRecipe: The task is timed, and the recipe is fake-quantized.
        ConfigError: The task measures quality, and the model has random weights.
        DataError: The data of the task, or of the calibration, cannot be had.
    """
    if task.is_timed and recipe.rules and recipe.backend.kind == "fake-quant":
        raise UnsupportedRecipe(
            f"a recipe must be one of a real backend for {task.name}, got {recipe.name}, which is "
            "fake-quantized: it computes in the float type and has no speed of its own; add "
            "backend@quant.backend=scaled_mm, torchao or bitsandbytes"
        )
    if task.needs_trained_weights and model.weights == "random":
        raise ConfigError(
            f"model.weights must be pretrained for {task.name}, got random, which have no quality "
            "to measure; leave model.weights out, or choose task=throughput"
        )
    task.data_facts()
    if recipe.calibrated_on is not None:
        recipe.calibrated_on.info()


def check_loaded(loaded: LoadedModel, recipe: QuantRecipe, task: Task | PairedTask) -> None:
    """Check what a loaded model shows: whether it came quantized, and how it is multiplied.

    Raises:
        UnsupportedRecipe: The checkpoint has no fake-quantized form, or no speed of its own.
        ConfigError: The task compares a recipe with its fake-quantized form, and got none.
    """
    if isinstance(task, PairedTask):
        _check_fake_form(loaded, recipe, task)
    stored = loaded.prequantized or loaded.dequantized
    is_fake = stored is not None and stored.kind == "fake-quant"
    if task.is_timed and is_fake and not recipe.rules:
        raise UnsupportedRecipe(
            "a checkpoint must be multiplied as it is stored to have a speed, got a "
            f"{loaded.origin}; choose another task"
        )


def _check_fake_form(loaded: LoadedModel, recipe: QuantRecipe, task: PairedTask) -> None:
    if loaded.prequantized is not None or (loaded.came_quantized and not recipe.rules):
        raise UnsupportedRecipe(
            f"{task.name} compares a recipe of a real backend with its fake-quantized form, got a "
            f"{loaded.origin}, which has no recipe; run it on the unquantized model (model=..., "
            "quant=NAME_real), or compare the checkpoint with that model: task=divergence "
            "+model@model.baseline=..."
        )
    if not recipe.rules:
        raise ConfigError(
            f"quant must be a recipe of a real backend for {task.name}, got {recipe.name}; "
            "try quant=int8_row_real"
        )


def overlap_warnings(recipe: QuantRecipe, task: Task | PairedTask) -> tuple[str, ...]:
    """Return a warning for each data set that a task scores and the calibration text contains."""
    # A speed is no score, nor is a comparison of two forms of one recipe.
    if recipe.calibrated_on is None or task.is_timed or isinstance(task, PairedTask):
        return ()
    text = recipe.calibrated_on.text()
    if not isinstance(task, ScoresData):
        return (
            f"what {task.name} scores was not compared with {text.name}, which the recipe is "
            "calibrated on",
        )
    return tuple(
        f"{found} stand in {text.name}, which the recipe is calibrated on: scores of it "
        "are too good"
        for found in overlap.shared_with(text, task.scored())
    )
