"""Tensor files, and the command line in this process."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from harness.tensor.__main__ import main


class Finished(NamedTuple):
    code: int
    out: str
    err: str

    def rows(self) -> list[dict[str, str]]:
        """The Markdown table on standard output, a dictionary a row."""
        lines = [line for line in self.out.splitlines() if line.startswith("|")]
        cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
        return [dict(zip(cells[0], row, strict=True)) for row in cells[2:]]


Run = Callable[..., Finished]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def tensors() -> dict[str, Tensor]:
    """One of each shape that formats may stumble over, and one that is no floating-point tensor."""
    return {
        "layers.0.weight": normal(24, 200),
        "layers.1.weight": normal(3, 70, seed=1).bfloat16(),
        "stack": normal(2, 5, 33, seed=2).half(),
        "norm": normal(50, seed=3).double() / 3,
        "scalar": torch.tensor(-0.3),
        "zeros": torch.zeros(4, 64),
        "steps": torch.arange(6),
    }


@pytest.fixture
def file(tmp_path: Path, tensors: dict[str, Tensor]) -> Path:
    path = tmp_path / "some.safetensors"
    save_file(tensors, path)
    return path


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*words: object) -> Finished:
        monkeypatch.setattr(sys, "argv", ["tensor", *(str(word) for word in words)])
        code: object = 0
        try:
            main()
        except SystemExit as leave:
            code = leave.code
        assert isinstance(code, int)
        return Finished(code, *capsys.readouterr())

    return call
