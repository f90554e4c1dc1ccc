"""A model card names the text that static scales were fitted to."""

import json
from pathlib import Path
from typing import Any

import pytest

from harness.export import card

MANIFEST: dict[str, Any] = {
    "model": {"name": "m", "origin": "float checkpoint", "weights": "pretrained"},
    "recipe": "w8a8_static",
    "packages": {"quant-harness": "1"},
    "command": "python -m harness.export",
    "config_hash": "0" * 64,
    "formats": {"linear": "int8_row"},
    "input_formats": {"linear": "int8_tensor"},
    "layout": "compressed-tensors",
    "coverage": 0.5,
    "bits_per_weight": 8.0,
    "total_bytes": 1000,
    "scale_error": 0.0,
    "skipped": [],
}
TEXT = {"text": "o.txt", "sha256": "ab" * 32, "num_sequences": 16, "length": 512, "seed": 3}


@pytest.mark.parametrize(
    ("calibration", "row"),
    [
        (None, "| activations | int8_tensor |"),
        (
            TEXT,
            "| activations | int8_tensor, fitted to o.txt (SHA-256 abababababab, 16 x 512 tokens, "
            "seed 3) |",
        ),
    ],
)
def test_card_says_what_inputs_were_fitted_to(
    calibration: dict[str, Any] | None, row: str, tmp_path: Path
) -> None:
    manifest = MANIFEST | {"calibration": calibration}
    card.write_card(tmp_path, manifest, {})
    assert row in (tmp_path / "README.md").read_text().splitlines()
    assert json.loads((tmp_path / card.MANIFEST).read_text())["calibration"] == calibration
