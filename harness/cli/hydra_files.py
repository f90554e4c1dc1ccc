"""Mask secrets in the configurations that Hydra writes.

`conf/config.yaml` names the class as a callback; Hydra calls it in every process that runs a job.
"""

from pathlib import Path
from typing import Any

import yaml
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from harness.output.atomic import write_atomic
from harness.output.redacted_streams import redact_logs
from harness.redaction import known_values, redacted_tree

WRITTEN = ("config.yaml", "hydra.yaml", "overrides.yaml")
"""Files that Hydra writes into `hydra.output_subdir`; other files there are the user's."""


class RedactedFiles(Callback):
    """Mask secrets in Hydra's files and in log lines."""

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        """Mask what Hydra has written, and what the job will log, right before the job runs."""
        redact_logs()
        hydra = config.hydra
        if hydra.output_subdir is None:
            return
        folder = Path(hydra.runtime.output_dir, hydra.output_subdir)
        for file in (folder / name for name in WRITTEN):
            if file.is_file():
                _redact_file(file)


def _redact_file(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    values = known_values()
    found = yaml.safe_load(text)
    masked = redacted_tree(found, values)
    if masked != found:
        dumped = yaml.safe_dump(masked, sort_keys=False, allow_unicode=True)
        write_atomic(file, dumped.encode(), "results_dir", "folder", force=True)
