"""Stored results of other implementations, where their rule is the project's own: equal bit for bit.

The folder `golden` lies beside the data sets. What is left out uses another rule: torchao's full-range INT8 (a scale
of amax / 127.5), its power-of-two scales, and its blocks of zeros, which it returns as NaN.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from harness.formats.base import NumberFormat
from harness.formats.integer import Integer
from harness.formats.minifloat import E4M3FN
from harness.quant.block_scaled import BlockScaled
from harness.quant.granularity import Granularity

FP8_BLOCKS = {
    "tensor": (-1, -1),
    "row": (1, -1),
    "g128": (1, 128),
    "b128x128": (128, 128),
    "b1x128": (1, 128),
}
FP8_CASES = [
    *((block, name) for block in ("tensor", "row", "g128") for name in ("normal", "heavy", "ties")),
    *((block, "edges") for block in ("tensor", "row", "g128")),
    *((block, "huge") for block in ("tensor", "row", "g128")),
    *((block, "special") for block in ("row", "g128")),
    ("b128x128", "w2d"),
    ("b1x128", "w2d"),
]


@pytest.fixture
def golden() -> Path:
    """The folder of stored vectors, or a skip."""
    folder = Path(os.environ.get("HARNESS_DATA", "nowhere")).parent / "golden"
    if not (folder / "manifest.json").is_file():
        pytest.skip("needs the folder golden beside HARNESS_DATA")
    return folder


def tensors(folder: Path, entry: str, file: str) -> dict[str, torch.Tensor]:
    """Return what is stored under an entry of the manifest, by role."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    if file != "inputs":
        assert entry in {listed["id"] for listed in manifest["entries"]}
    with safe_open(folder / f"{file}.safetensors", "pt") as store:
        keys = [key for key in store.keys() if key == entry or key.startswith(f"{entry}/")]  # noqa: SIM118
        return {key.removeprefix(f"{entry}/"): store.get_tensor(key) for key in keys}


def quantized(
    folder: Path, element: NumberFormat, block: tuple[int, ...], name: str
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return codes, scales and values of a stored input."""
    fmt = BlockScaled(element=element, granularity=Granularity(block=block))
    found = fmt.quantize(tensors(folder, name, "inputs")[name])
    return found.codes, found.scale.values, found.dequantize()


@pytest.mark.parametrize(("block", "name"), FP8_CASES)
def test_fp8_equals_torchao(golden: Path, block: str, name: str) -> None:
    stored = tensors(golden, f"torchao/e4m3/{block}/{name}", "fp8")
    codes, scale, values = quantized(golden, E4M3FN(), FP8_BLOCKS[block], name)
    np.testing.assert_array_equal(scale.numpy(), stored["scale"].numpy())
    decoded, expected = (E4M3FN().decode(each).numpy() for each in (codes, stored["codes"]))
    finite = np.isfinite(values.numpy())
    np.testing.assert_array_equal(decoded[finite], expected[finite])
    if "dq" in stored:
        np.testing.assert_array_equal(values.numpy(), stored["dq"].float().numpy())


@pytest.mark.parametrize("name", ["normal", "heavy", "ties", "edges"])
def test_fp8_equals_compressed_tensors(golden: Path, name: str) -> None:
    stored = tensors(golden, f"ct/fp8_sym_channel/{name}", "compressed_tensors")
    codes, scale, _ = quantized(golden, E4M3FN(), (1, -1), name)
    np.testing.assert_array_equal(scale.numpy(), stored["scale"].numpy())
    np.testing.assert_array_equal(E4M3FN().decode(codes).numpy(), stored["qv"].float().numpy())


def test_fp8_values_equal_the_stored_table(golden: Path) -> None:
    stored = tensors(golden, "values/e4m3fn", "tables")["values"].float()
    decoded = E4M3FN().decode(torch.arange(256, dtype=torch.uint8))
    np.testing.assert_array_equal(decoded.numpy(), stored.numpy())


def test_int8_equals_torchao_in_the_restricted_range(golden: Path) -> None:
    # torchao multiplies with 1/scale where the project divides: the scales are equal, and codes may differ by
    # one where the quotient lies on a tie. In this entry none does.
    stored = tensors(golden, "torchao/int8_restricted/sym/row/heavy", "int_torchao")
    codes, scale, _ = quantized(golden, Integer(bits=8), (1, -1), "heavy")
    np.testing.assert_array_equal(scale.flatten().numpy(), stored["scale"].flatten().numpy())
    np.testing.assert_array_equal(codes.view(torch.int8).numpy(), stored["q"].numpy())
