"""One export, start to finish: build, check, load, write."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness import config, devices, provenance
from harness.errors import ConfigError
from harness.export.checkpoint import Exported, check, export
from harness.export.layout import Layout
from harness.models import cache
from harness.models.source import ModelSource
from harness.recipe import QuantRecipe

PLACES = ("out", "shard_gb")
"""Keys that do not change what is written."""


def run(resolved: Mapping[str, Any]) -> Exported:
    """Export what a resolved configuration says.

    Raises:
        HarnessError: It cannot be done; nothing was left behind.
    """
    allowed = tuple(resolved["allow_targets"])

    def part(key: str, kind: type[config.Component]) -> config.Component:
        return config.check_component(config.build(resolved[key], key, allowed), kind, key)

    model, recipe = part("model", ModelSource), part("quant", QuantRecipe)
    layout = part("layout", Layout)
    if not 0 < resolved["shard_gb"] < math.inf:
        raise ConfigError(f"shard_gb must be above 0, got {resolved['shard_gb']}; 2.0 is usual")
    out = Path(resolved["out"]).expanduser()
    check(recipe, layout, out)  # before minutes of loading
    device = devices.choose(resolved["device"])
    described = {key: value for key, value in resolved.items() if key not in PLACES}
    made = provenance.collect({}, device)
    facts = {
        "command": provenance.command_line(),
        "config": dict(resolved),
        "config_hash": config.config_hash(described, device.type),
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
    )
