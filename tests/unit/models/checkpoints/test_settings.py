"""The quantization settings of a folder: in config.json, or in its part for the text model."""

import json
from pathlib import Path

import pytest

from harness.errors import ModelError
from harness.models.checkpoints.settings import settings_of

GPTQ = {"quant_method": "gptq", "bits": 4}
FP8 = {"quant_method": "fp8"}


def test_settings_are_found_where_configs_have_them(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    settings = {"quant_method": "gptq"}
    for config, expected in [
        ({}, None),
        ({"quantization_config": settings}, settings),
        ({"compression_config": settings}, settings),
        ({"text_config": {"quantization_config": settings}}, settings),
        ({"quantization_config": None}, None),
        ([], None),
    ]:
        file.write_text(json.dumps(config), encoding="utf-8")
        assert settings_of(tmp_path) == expected
    file.write_text("{", encoding="utf-8")
    assert settings_of(tmp_path) is None


def test_two_quantizations_in_one_config_are_refused(tmp_path: Path) -> None:
    both = {
        "quantization_config": GPTQ,
        "text_config": {"quantization_config": FP8},
    }
    (tmp_path / "config.json").write_text(json.dumps(both))
    with pytest.raises(ModelError, match="must have one quantization_config"):
        settings_of(tmp_path)
    both["text_config"] = {"quantization_config": GPTQ}
    (tmp_path / "config.json").write_text(json.dumps(both))
    assert settings_of(tmp_path) == GPTQ
