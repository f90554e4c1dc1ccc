"""Quantized checkpoints that cannot be loaded right: one error, with the folder and advice."""

import json
import sys
from pathlib import Path

import pytest
import torch
from quantized_folders import (
    UP,
    Weights,
    change_config,
    change_tensors,
    compressed,
    library_folder,
    load,
    written,
)

from harness.errors import ModelError

pytestmark = pytest.mark.usefixtures("eager")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("method", "lost"),
    [
        ("int4", "weight_packed"),
        ("int4", "weight_scale"),
        ("int8", "weight_scale"),
        ("nf4_dq", "weight.nested_absmax"),
        ("nf4_dq", "weight.absmax"),
        ("llm_int8", "SCB"),
        ("torchao", "_weight_scale"),
    ],
)
def test_lost_tensor_is_a_model_error(
    float_folder: Path, tmp_path: Path, method: str, lost: str
) -> None:
    if method in ("int4", "int8"):
        compressed(tmp_path, 4 if method == "int4" else 8, 16 if method == "int4" else None)
    else:
        library_folder(float_folder, tmp_path, method)
    change_tensors(tmp_path, lambda tensors: tensors.pop(f"{UP}.{lost}"))
    with pytest.raises(ModelError, match=str(tmp_path)):
        load(tmp_path)


def test_tensor_that_is_left_out_is_a_model_error(tmp_path: Path) -> None:
    compressed(tmp_path, 8, None)
    change_tensors(tmp_path, lambda t: t.update({f"{UP}.input_scale": torch.ones(1)}))
    with pytest.raises(ModelError, match=r"must be of use, .* leaves out: .*input_scale"):
        load(tmp_path)


def test_head_with_rounded_inputs_is_refused(tmp_path: Path) -> None:
    compressed(tmp_path, 8, None)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    config["quantization_config"]["ignore"] = []
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")

    def add_head(tensors: Weights) -> None:
        tensors["lm_head.weight"] = torch.ones(261, 64, dtype=torch.int8)
        tensors["lm_head.weight_scale"] = torch.ones(261, 1)

    change_tensors(tmp_path, add_head)
    with pytest.raises(ModelError, match="add lm_head to the ignored layers"):
        load(tmp_path)


def test_codes_that_nothing_describes_are_refused(tmp_path: Path) -> None:
    folder = written(tmp_path, {}, {})
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    del config["quantization_config"]
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert load(folder).prequantized is None

    def to_fp8(tensors: Weights) -> None:
        tensors[f"{UP}.weight"] = tensors[f"{UP}.weight"].to(torch.float8_e4m3fn)

    change_tensors(folder, to_fp8)
    with pytest.raises(ModelError, match=r"got 1 others .*up_proj.weight \(F8_E4M3\)"):
        load(folder)


@pytest.mark.filterwarnings("ignore")
def test_float_weights_that_are_said_to_be_quantized_are_refused(tmp_path: Path) -> None:
    written(tmp_path, {}, {"quant_method": "mxfp4"})
    with pytest.raises(ModelError, match="must hold codes, got float weights alone"):
        load(tmp_path)


def test_unknown_method_is_refused_and_not_taken_for_float(
    float_folder: Path, tmp_path: Path
) -> None:
    written(tmp_path, {}, {"quant_method": "nonesuch", "bits": 8})
    with pytest.raises(
        ModelError, match=r"method that transformers loads \(.*gptq.*\), got 'nonesuch'"
    ):
        load(tmp_path)


def test_method_that_nobody_compared_on_a_cpu_is_refused(tmp_path: Path) -> None:
    written(tmp_path, {}, {})
    for method in ("hqq", "fp_quant", "quanto", "higgs", "aqlm", "fbgemm_fp8"):
        change_config(tmp_path, quantization_config={"quant_method": method})
        expected = (
            rf"compared with its own arithmetic on a CPU \(.*gptq.*torchao\), got {method} in"
        )
        with pytest.raises(ModelError, match=expected):
            load(tmp_path)


def test_missing_library_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compressed(tmp_path, 8, None)
    monkeypatch.setitem(sys.modules, "compressed_tensors.quantization", None)
    with pytest.raises(ModelError, match=r"library of a compressed-tensors checkpoint must be"):
        load(tmp_path)
