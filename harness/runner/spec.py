"""What one run is made of."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from harness import config
from harness.engines.source import EngineSource
from harness.machine import devices, provenance
from harness.models.loaded import ModelSource
from harness.output.names import local_path
from harness.recipe import QuantRecipe
from harness.results.store import ResultStore
from harness.runner import checks
from harness.sinks.card import CardTarget
from harness.sinks.deliver import Sinks
from harness.sinks.facts import Tracker
from harness.tasks.base import ModelFreeTask, PairedTask, Task


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSpec:
    """What to run, as objects."""

    model: ModelSource | None
    """None for a task without a model, and for an engine that loads its own."""
    recipe: QuantRecipe
    task: Task | PairedTask | ModelFreeTask
    engine: EngineSource
    device: torch.device
    store: ResultStore
    force: bool
    """Whether to run although an identical run is on file."""
    resolved: Mapping[str, Any]
    """The configuration; `model` and `data` are null where `model` is None."""
    command: str
    """The command line that repeats the run, secrets masked."""
    sinks: Sinks
    """Where the record goes beside its file."""

    @classmethod
    def build(
        cls, resolved: Mapping[str, Any], name: str | None = None, command: str | None = None
    ) -> "RunSpec":
        """Build every component of a resolved configuration; nothing is loaded yet.

        Args:
            resolved: The configuration.
            name: Name of the recipe, if its file does not say it; see `harness.cli.recipe_name`.
            command: The command line that repeats the run; by default the one of this process.

        Raises:
            ConfigError: A key or value is not legal, or recipe and task do not go together.
            OutputError: `results_dir` is no path.
        """
        model: ModelSource | None = config.component(resolved, "model", ModelSource)
        recipe = config.component(resolved, "quant", QuantRecipe)
        recipe = replace(recipe, name=name or recipe.name)
        engine = config.component(resolved, "engine", EngineSource)
        sinks = _sinks(resolved)
        match config.build(resolved["task"], "task", tuple(resolved["allow_targets"])):
            case ModelFreeTask() as task:
                checks.check_no_recipe(task.name, recipe)
                checks.check_no_engine(task, engine)
                # Any model and data make the same run.
                model, resolved = None, {**resolved, "model": None, "data": None}
            case PairedTask() as task:
                checks.check_real_backend(task, recipe)
            case task:
                config.check_component(task, Task, "task")
        if engine.model_name is not None:
            checks.check_no_recipe(f"engine={engine.label}", recipe)
            # The task has its own copy of the data.
            model, resolved = None, {**resolved, "model": None, "data": None}
        return cls(
            model=model,
            recipe=recipe,
            task=task,
            engine=engine,
            device=devices.choose(resolved["device"]),
            store=ResultStore(root=local_path(resolved["results_dir"], "results_dir")),
            force=resolved["force"],
            resolved=resolved,
            command=command or provenance.command_line(),
            sinks=sinks,
        )

    @property
    def place(self) -> dict[str, str]:
        """The names that decide where records lie; see `ResultStore.path`."""
        own = self.engine.model_name or "no_model"
        model = self.model.name if self.model is not None else own
        return {"task": self.task.name, "model": model, "recipe": self.recipe.name}


def _sinks(resolved: Mapping[str, Any]) -> Sinks:
    """Return where the record goes beside its file, checked before anything is measured.

    Raises:
        ConfigError: The package of a tracker is missing, or `push` is of no exported folder.
    """
    tracker = config.component(resolved, "track", Tracker) if resolved.get("track") else None
    if tracker is not None:
        tracker.check()
    push = resolved.get("push")
    return Sinks(tracker=tracker, card=CardTarget.of(push, resolved) if push else None)
