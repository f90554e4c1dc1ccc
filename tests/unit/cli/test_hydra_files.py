"""The configurations that Hydra files are masked, and a user's own files beside them are not."""

from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf
from secret_shapes import SHAPES

from harness.cli.hydra_files import RedactedFiles
from harness.redaction import MASK


@pytest.mark.usefixtures("_logs_as_before")
@pytest.mark.parametrize("subdir", [None, ".hydra"])
def test_files_of_hydra_are_masked(subdir: str | None, tmp_path: Path) -> None:
    secret = SHAPES["Hugging Face"]
    holding = {
        "hydra": {
            "job": {"env_set": {"HF_TOKEN": secret, "X": "1"}},
            "list": [f"model.token={secret} b"],
        }
    }
    folder = tmp_path / ".hydra"
    folder.mkdir()
    files = [folder / f"{name}.yaml" for name in ("overrides", "config", "hydra")]
    own = folder / "of_the_user.yaml"
    for file in (*files, own):
        OmegaConf.save(OmegaConf.create(holding), file)
    before = own.read_bytes()
    cfg = {
        "hydra": {
            "runtime": {"output_dir": str(tmp_path)},
            "output_subdir": subdir,
        }
    }
    RedactedFiles().on_job_start(config=OmegaConf.create(cfg))
    assert own.read_bytes() == before
    masked = {
        "hydra": {
            "job": {"env_set": {"HF_TOKEN": MASK, "X": "1"}},
            "list": [f"model.token={MASK}"],
        }
    }
    for file in files:
        assert yaml.safe_load(file.read_text()) == (masked if subdir else holding)
