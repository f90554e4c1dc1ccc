"""The command line of exports: `python -m harness.export +quant=int8_row out=DIR`.

The configuration groups are those of `python -m harness`, with `layout` instead of `task`. One
command writes one folder. An error is one line, with exit code 1.
"""

import logging
import os
import sys
import traceback
from dataclasses import dataclass, field
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

from harness import config, signals
from harness.cli.arguments import MULTIRUN, rewrite
from harness.cli.explain import explain
from harness.cli.keys import help_page
from harness.cli.recipe_name import recipe_name
from harness.cli.run import EXIT_FAILED
from harness.errors import ConfigError, HarnessError, of_this_machine
from harness.messages import plural
from harness.output.stdout import printing, until_closed
from harness.output.temporary import check_temporary

log = logging.getLogger(__name__)

EXPORT_KEYS = ("layout", "out", "shard_gb")
"""Keys that `python -m harness` does not have."""


@dataclass
class ExportConfig:
    """Top level of the configuration; see `harness.config.RunConfig`."""

    model: Any = MISSING
    data: Any = MISSING
    layout: Any = MISSING
    out: str = MISSING
    quant: Any = field(
        default_factory=lambda: {"_target_": "harness.recipe.QuantRecipe", "name": "none"}
    )
    device: str = "auto"
    shard_gb: float = 2.0
    force: bool = False
    allow_targets: list[str] = field(default_factory=list)


def register() -> None:
    """Store the schema in Hydra as `base_export`."""
    ConfigStore.instance().store(name="base_export", node=ExportConfig)


def resolve(cfg: DictConfig) -> dict[str, Any]:
    """Return the configuration as plain data.

    Raises:
        ConfigError: A key is unknown, or a value is missing.
    """
    if OmegaConf.is_missing(cfg, "out"):
        raise ConfigError("out must be given, got nothing; add out=DIR")
    # The keys that both commands have are checked by the other one's rules.
    shared = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key not in EXPORT_KEYS])
    own = OmegaConf.masked_copy(cfg, list(EXPORT_KEYS))
    return {**config.resolve(shared), **config.plain(own)}


@hydra.main(version_base="1.3", config_path=str(config.CONF), config_name="export")
def export_job(cfg: DictConfig) -> None:
    """Export one composed configuration; on an error, print one line and exit with code 1.

    An error that left this function would make Hydra print all overrides first.
    """
    try:
        resolved = resolve(cfg)
        _export(resolved, recipe_name(cfg, resolved))
    except Exception as reason:
        if (interrupt := signals.received()) is not None:
            raise interrupt from reason
        said = of_this_machine(reason)
        if isinstance(reason, HarnessError):  # an error that explains itself needs no traceback
            said = f"{type(reason).__name__}: {reason}"
        sys.stderr.write(f"{said}\n" if said else traceback.format_exc())
        sys.exit(EXIT_FAILED)


def _export(resolved: dict[str, Any], name: str | None) -> None:
    check_temporary()
    # Imported here, so that composing, --help and a typo in a key need no torch.
    with signals.held():
        from harness.export.job import run  # noqa: PLC0415

    exported = run(resolved, name)
    for warning in exported.warnings:
        log.warning("%s", warning)
    with printing():
        sys.stdout.write(
            f"{exported.folder}: {exported.total_bytes / 1e6:.1f} MB in {len(exported.files)} "
            f"{plural('file', len(exported.files))}; stored scales differ by at most "
            f"{exported.scale_error:.1e}; read back and compared in {exported.seconds:.1f} s\n"
        )


def main() -> None:
    """Run the command line of this process."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    with signals.stoppable("nothing was left behind"):
        try:
            sys.argv[1:] = rewrite(sys.argv[1:])
            if any(argument in MULTIRUN for argument in sys.argv[1:]):
                raise ConfigError(
                    "one command must write one folder, got -m; run it for each recipe"
                )
            if (page := help_page(sys.argv[1:], "export")) is not None:
                with printing():
                    sys.stdout.write(page)
                return
            with until_closed():  # Hydra prints --help and --cfg by itself
                export_job()
        # `export_job` reports its own errors. Others are of Hydra, or of a mistyped word.
        except Exception as reason:
            if signals.received():
                raise
            sys.stderr.write(f"{explain(reason, sys.argv[1:], 'export')}\n")
            sys.exit(EXIT_FAILED)


register()
