"""A number format of one's own: one Python file and YAML in a folder outside of the repository, nothing else."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra

from harness.cli.run import main
from harness.models.sources.tiny import TinyModel
from harness.results.record import LayerReport, RunRecord, Status

Cli = Callable[..., subprocess.CompletedProcess[str]]
Records = Callable[[Path], list[RunRecord]]

PYTHON = '''
"""Five values: two of either sign a factor of 4 apart, and zero."""

from dataclasses import dataclass

import torch
from torch import Tensor

VALUES = torch.tensor([-4.0, -1.0, 0.0, 1.0, 4.0])
BORDERS = (VALUES[1:] + VALUES[:-1]) / 2


@dataclass(frozen=True, kw_only=True, slots=True)
class FiveValues:
    """The nearest of five values; the code of a value is its place among them."""

    name: str = "five"

    @property
    def bits(self) -> int:
        return 3

    @property
    def max(self) -> float:
        return 4.0

    def values(self) -> Tensor:
        return VALUES.clone()

    def round(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        x = x.float()
        return torch.where(x.isnan(), x, self.decode(self.encode(x)))

    def encode(self, values: Tensor) -> Tensor:
        return torch.bucketize(values.nan_to_num(), BORDERS.to(values.device)).to(torch.uint8)

    def decode(self, codes: Tensor) -> Tensor:
        return VALUES.to(codes.device)[codes.int()]
'''
FIVE_GROUP = """
# Five values, one scale for each 16 weights of a row.
_target_: harness.quant.BlockScaled
element: {_target_: my_formats.FiveValues}
granularity: {_target_: harness.quant.Granularity, block: [1, 16]}
"""
RECIPE = """
# Weight-only five values.
defaults:
  - base/decoder_linears@_here_
  - /format@rules.linear.weight: five_group
  - _self_
name: five_group
"""
INT4_FP8_SCALES = """
# INT4 groups of 16 under FP8 scales: known parts, no Python.
_target_: harness.quant.BlockScaled
element: {_target_: harness.formats.Integer, bits: 4}
granularity: {_target_: harness.quant.Granularity, block: [1, 16]}
scale:
  _target_: harness.quant.FloatScale
  storage: {_target_: harness.formats.Minifloat, exponent_bits: 4, mantissa_bits: 3, specials: nan}
"""
SMALL = (
    *("model=tiny", "data=embedded", "task=perplexity", "task.window=64", "task.limit_windows=4"),
    "results_dir=results",
)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder with configuration files, beside a module that Python finds."""
    (tmp_path / "my_formats.py").write_text(PYTHON)
    folder = tmp_path / "my_conf"
    for name, text in {
        "format/five_group": FIVE_GROUP,
        "format/int4_fp8_scales": INT4_FP8_SCALES,
        "quant/five_group": RECIPE,
    }.items():
        file = folder / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return folder


def only_layer(record: RunRecord, name: str) -> LayerReport:
    assert record.status is Status.OK
    assert record.quant is not None
    assert record.quant.num_quantized == 36864
    return next(layer for layer in record.quant.layers if layer.name == name)


def blocks_of(name: str) -> torch.Tensor:
    """Return a weight of the tiny model in blocks of 16, which divides its rows."""
    module = TinyModel().load(torch.device("cpu")).module
    return module.get_submodule(name).weight.detach().double().reshape(-1, 16)


def relative_error(blocks: torch.Tensor, scale: torch.Tensor, grid: list[float]) -> float:
    """Return the error of the nearest of all multiples of the scale."""
    candidates = scale * torch.tensor(grid, dtype=torch.float64)
    nearest = (blocks[..., None] - candidates[:, None]).abs().amin(-1)
    return float(nearest.norm() / blocks.norm())


def test_own_number_format_is_measured_like_any_other(
    own: Path, cli: Cli, tmp_path: Path, records: Records
) -> None:
    done = cli("--config-dir", own.name, "+quant=five_group", *SMALL, "allow_targets=[my_formats]")
    assert done.returncode == 0, done.stderr
    [record] = records(tmp_path / "results")
    layer = only_layer(record, "model.layers.0.mlp.down_proj")
    assert record.quant is not None
    assert record.quant.name == "five_group"
    assert record.quant.formats == {"linear": "five_g16"}
    # Three bits, and a float32 for 16.
    assert record.quant.bits_per_weight == layer.bits_per_weight == 3 + 32 / 16
    blocks = blocks_of(layer.name)
    scale = blocks.abs().amax(-1, keepdim=True) / 4
    assert layer.rel_error == pytest.approx(relative_error(blocks, scale, [-4, -1, 0, 1, 4]))
    assert record.metrics[0].name == "perplexity"


def test_format_whose_code_was_edited_is_measured_again(
    own: Path, cli: Cli, tmp_path: Path, records: Records
) -> None:
    typed = ("--config-dir", own.name, "+quant=five_group", *SMALL, "allow_targets=[my_formats]")
    name = "model.layers.0.mlp.down_proj"
    assert cli(*typed).returncode == 0
    (tmp_path / "my_formats.py").write_text(PYTHON.replace("-1.0, 0.0, 1.0", "-2.0, 0.0, 2.0"))
    assert "already on file" not in cli(*typed).stdout
    assert "already on file" in cli(*typed).stdout
    errors = {only_layer(record, name).rel_error for record in records(tmp_path / "results")}
    blocks = blocks_of(name)
    scale = blocks.abs().amax(-1, keepdim=True) / 4
    grids = ([-4, -1, 0, 1, 4], [-4, -2, 0, 2, 4])
    expected = [relative_error(blocks, scale, grid) for grid in grids]
    assert sorted(errors) == pytest.approx(sorted(expected))


def test_format_of_known_parts_needs_no_python_and_no_recipe(
    own: Path, tmp_path: Path, records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = (
        *("--config-dir", str(own), "+quant=int8_row", "quant.name=int4_fp8_scales"),
        *("format@quant.rules.linear.weight=int4_fp8_scales", *SMALL),
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["harness", *typed])
    main()
    GlobalHydra.instance().clear()
    [record] = records(tmp_path / "results")
    layer = only_layer(record, "model.layers.1.self_attn.q_proj")
    assert record.quant is not None
    assert record.quant.name == "int4_fp8_scales"
    assert record.quant.formats == {"linear": "int4_g16_fp8_e4m3fn"}
    assert record.quant.bits_per_weight == layer.bits_per_weight == 4 + 8 / 16
    blocks = blocks_of(layer.name)
    scale = (blocks.abs().amax(-1, keepdim=True) / 7).to(torch.float8_e4m3fn).double()
    assert layer.rel_error == pytest.approx(relative_error(blocks, scale, list(range(-7, 8))))
