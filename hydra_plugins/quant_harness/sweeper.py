"""The sweeper of `python -m harness -m`: Hydra's basic sweeper, with a row for each job.

Hydra finds plugins only in the namespace package `hydra_plugins`, and every program that uses Hydra
imports all of them. Nothing heavy is imported at the top.
"""

from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser


class CollectingSweeper(BasicSweeper):
    """Runs every combination of the swept values; `harness.sweep.gather` keeps the results."""

    def sweep(self, arguments: list[str]) -> Any:
        """Run a sweep.

        Args:
            arguments: The overrides of the command line; commas separate values.
        """
        from harness.cli.run import run_job  # noqa: PLC0415 - see the top
        from harness.sweep.gather import run  # noqa: PLC0415

        # Hydra has called setup.
        assert self.launcher is not None  # noqa: S101
        assert self.hydra_context is not None  # noqa: S101
        assert self.config is not None  # noqa: S101
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        overrides = parser.parse_overrides([*self._parse_config(), *arguments])
        batches = self.split_arguments(overrides, self.max_batch_size)
        for batch in batches:
            self.validate_batch_is_legal(batch)
        run(self.launcher, run_job, self.hydra_context, self.config, batches)
