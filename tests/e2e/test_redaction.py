"""Commands leave no secret on disk or terminal."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from secret_shapes import SHAPES

from harness.redaction import MASK


def test_sweep_leaves_no_secret_on_disk_or_terminal(
    cli: Callable[..., Any], tmp_path: Path
) -> None:
    """A token in the environment of the jobs, and a key that fails; Hydra is asked for all the files that it can write."""
    secrets = [SHAPES["Hugging Face"], "pa55-w0rd-of-url"]
    finished = cli(
        *("-m", "model=tiny", "data=embedded", "task=perplexity", "task.window=64", "device=cpu"),
        *("task.limit_windows=12", "+quant=none,int8_row", "hydra.output_subdir=.h"),
        *("hydra/job_logging=default", f"+hydra.job.env_set.HF_TOKEN={secrets[0]}"),
        f"+hydra.job.env_set.PROXY=https://me:{secrets[1]}@host",
    )
    text = finished.stdout + finished.stderr
    assert finished.returncode == 0, text
    refused = cli("model=tiny", f"+model.token={secrets[1]}", "--cfg", "job")
    text += refused.stdout + refused.stderr
    assert MASK in text
    assert not [secret for secret in secrets if secret in text]
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    for path in written:
        content = path.read_bytes()
        assert not [secret for secret in secrets if secret.encode() in content], path
    names = {path.name for path in written}
    assert {"overrides.yaml", "hydra.yaml", "config.yaml", "harness.log"} <= names
    commands = [json.loads(path.read_text())["command"] for path in tmp_path.rglob("*.json")]
    assert len(commands) == 2
    assert all(
        f"HF_TOKEN={MASK}" in command and f"//{MASK}@host" in command for command in commands
    )


@pytest.mark.parametrize(
    "module", ["harness", "harness.export", "harness.report", "harness.tensor"]
)
def test_every_command_masks_what_it_prints(module: str) -> None:
    secret = SHAPES["Hugging Face"]
    finished = subprocess.run(
        [sys.executable, "-m", module, "formats", f"--x={secret}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode != 0
    assert MASK in finished.stderr
    assert secret not in finished.stdout + finished.stderr
