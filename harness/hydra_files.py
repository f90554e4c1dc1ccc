"""The configurations that Hydra files hold no secrets: `config.yaml` and others if they are asked for, and `multirun.yaml` of older versions.

`conf/config.yaml` names the class among Hydra's callbacks; Hydra calls it in every process that runs a job.
"""

from pathlib import Path
from typing import Any

import yaml
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from harness.output.atomic import write_atomic
from harness.redacted_output import redact_logs
from harness.redaction import known_values, redacted_tree


class RedactedFiles(Callback):
    """Mask secrets in the configurations that Hydra files, and in those that older versions left in the folder."""

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        """Hydra has written the files, set up logging and runs the job next, in whatever process."""
        redact_logs()
        _redact_files(config)

    def on_run_end(self, config: DictConfig, **_: Any) -> None:
        """Mask what was written meanwhile."""
        _redact_files(config)

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Mask what was written meanwhile."""
        _redact_files(config)


def _redact_files(config: DictConfig) -> None:
    hydra = config.hydra
    files = [Path(hydra.sweep.dir) / "multirun.yaml"]
    output = OmegaConf.select(config, "hydra.runtime.output_dir")
    if output and hydra.output_subdir is not None:
        files += Path(output, hydra.output_subdir).glob("*.yaml")
    for file in files:
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
