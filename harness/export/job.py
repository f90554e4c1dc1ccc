"""One export from start to finish: build the parts, check them, load, write the folder."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from harness import config
from harness.errors import ConfigError
from harness.export.checkpoint import OUT_KEY, Exported, check_export, export
from harness.export.layouts.layout import Layout
from harness.identity import config_hash
from harness.machine import devices, provenance
from harness.models import cache
from harness.models.loaded import ModelSource
from harness.output.names import local_path
from harness.recipe import QuantRecipe
from harness.redaction import known_values, redacted_tree

NOT_IDENTITY = ("out", "shard_gb")
"""Keys that do not change the weights that are written."""


def run(resolved: Mapping[str, Any], name: str | None = None) -> Exported:
    """Export a resolved configuration; the recipe is called `name`, see `harness.cli.recipe_name`.

    Raises:
        HarnessError: The export cannot be done. Nothing is left behind.
    """
    model = config.component(resolved, "model", ModelSource)
    recipe = config.component(resolved, "quant", QuantRecipe)
    recipe = replace(recipe, name=name or recipe.name)
    layout = config.component(resolved, "layout", Layout)
    if not 0 < resolved["shard_gb"] < math.inf:
        raise ConfigError(f"shard_gb must be above 0, got {resolved['shard_gb']}; 2.0 is usual")
    out, force = local_path(resolved["out"], OUT_KEY), resolved["force"]
    check_export(recipe, layout, out, force=force)  # before minutes of loading
    device = devices.choose(resolved["device"])
    described = {key: value for key, value in resolved.items() if key not in NOT_IDENTITY}
    made = provenance.collect({}, device)
    facts = {
        "command": provenance.command_line(),
        "config": redacted_tree(resolved, known_values()),
        "config_hash": config_hash(described, device.type),
        "git_commit": made.git_commit,
        "git_dirty": made.git_dirty,
        "packages": made.packages,
    }
    return export(
        cache.load(model, device),
        recipe,
        layout,
        out,
        shard_bytes=int(resolved["shard_gb"] * 1e9),
        facts=facts,
        force=force,
    )
