"""Stored results of other implementations: one case for each entry of the manifest in the folder `golden`.

A test module named in `HOMES` that has a table `KNOWN_DIFFERENT` gets every entry of its files as `entry`, so that none
is left out: an entry is equal in all its roles, or is in the table, with the reason and what is true of it instead.
"""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

HOMES = {
    "tables": ("test_golden_tables", 19),
    "int_torchao": ("test_golden_integers", 108),
    "compressed_tensors": ("test_golden_integers", 72),
    "fp8": ("test_golden_integers", 48),
    "mx_torchao": ("test_golden_microscaling", 170),
    "mx_microxcaling": ("test_golden_microscaling", 148),
    "mx_fake_quant_ops": ("test_golden_microscaling", 18),
    "nvfp4": ("test_golden_nvfp4", 54),
    "bnb4bit": ("test_golden_qlora", 26),
    "hif8": ("test_golden_hifloat", 48),
    "hifx": ("test_golden_hifloat", 63),
    "autograd": ("test_fake_quant_ops", 29),
    "qtype_quant_py": ("test_descriptor", 60),
}
"""The test module of each file, and how many entries the file has."""
Known = dict[str, tuple[str, Callable[..., None]]]
"""By a glob over ids: why results differ, and what is asserted of them instead."""
FOLDER = Path(os.environ.get("HARNESS_DATA", "nowhere")).parent / "golden"


@lru_cache
def stored_tensors(file: str) -> dict[str, torch.Tensor]:
    return load_file(FOLDER / f"{file}.safetensors")


@lru_cache
def manifest() -> tuple[dict[str, Any], ...]:
    path = FOLDER / "manifest.json"
    return tuple(json.loads(path.read_text(encoding="utf-8"))["entries"]) if path.is_file() else ()


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One call of another implementation: its input and its results by role."""

    id: str
    x: torch.Tensor | None
    stored: dict[str, torch.Tensor]

    @property
    def parts(self) -> list[str]:
        return self.id.split("/")

    def differing(
        self, found: dict[str, torch.Tensor], values: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Return which elements are not equal, of each role that has any: NaN == NaN, +0 == -0.

        Where the project's `values` are NaN the whole block is, and the codes of its elements mean nothing.
        """
        assert found.keys() == self.stored.keys()
        masks = {}
        for role, stored in self.stored.items():
            ours, theirs = found[role].double().squeeze(), stored.double().squeeze()
            assert ours.shape == theirs.shape, role
            mask = (ours != theirs) & ~(ours.isnan() & theirs.isnan())
            if role in ("codes", "q", "qv"):
                mask &= ~values.isnan().squeeze()
            if mask.any():
                masks[role] = mask.reshape(found[role].shape)
        return masks

    def check(self, found: dict[str, torch.Tensor], values: torch.Tensor, known: Known) -> None:
        """Assert that every role is equal, or that what the first fitting line of `known` says is true."""
        differing = self.differing(found, values)
        line = next((line for glob, line in known.items() if fnmatchcase(self.id, glob)), None)
        if line is None:
            assert not differing, {role: int(mask.sum()) for role, mask in differing.items()}
        else:
            assert differing, f"equal now: take it out of KNOWN_DIFFERENT ({line[0]})"
            line[1](self, found, differing)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "entry" in metafunc.fixturenames and "KNOWN_DIFFERENT" in dir(metafunc.module):
        name = metafunc.module.__name__.rpartition(".")[-1]
        files = [f"{file}.safetensors" for file, (home, _) in HOMES.items() if home == name]
        chosen = [listed for listed in manifest() if listed["file"] in files]
        ids = [listed["id"] for listed in chosen]
        metafunc.parametrize("entry", chosen, ids=ids, indirect=True)


@pytest.fixture
def entry(request: pytest.FixtureRequest) -> Entry:
    """The entry of this case."""
    listed = request.param
    tensors = stored_tensors(listed["file"].removesuffix(".safetensors"))
    inputs = stored_tensors("inputs")
    name = listed["id"].rpartition("/")[-1]
    return Entry(
        id=listed["id"],
        x=inputs[name].clone() if name in inputs else None,
        stored={role: tensors[f"{listed['id']}/{role}"] for role in listed["sha256_16"]},
    )


@pytest.fixture
def golden() -> dict[str, Any]:
    """The whole manifest by id, with `HOMES` and the tensors of a file; or a skip."""
    if not manifest():
        pytest.skip("needs the folder golden beside HARNESS_DATA")
    return {"entries": manifest(), "homes": HOMES, "tensors": stored_tensors}
