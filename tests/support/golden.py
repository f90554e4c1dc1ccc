"""Results of other implementations, stored in the folder `golden` beside HARNESS_DATA.

`entries_of(module)` returns every entry of the files that belong to a test module (`HOMES`), so
that none is left out. Each entry is equal in all its roles, or the module's `KNOWN_DIFFERENT` lists
it with the reason and a check of the difference.
"""

import json
import os
from collections.abc import Callable, Iterator
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
"""Glob over ids -> why results differ, and the check of the difference."""
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

        Blocks whose `values` are NaN have codes without a meaning; those are not compared.
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
        """Assert that every role is equal, or that the first fitting check of `known` passes."""
        differing = self.differing(found, values)
        line = next((line for glob, line in known.items() if fnmatchcase(self.id, glob)), None)
        if line is None:
            assert not differing, {role: int(mask.sum()) for role, mask in differing.items()}
        else:
            assert differing, f"equal now: take it out of KNOWN_DIFFERENT ({line[0]})"
            line[1](self, found, differing)


def whole() -> tuple[dict[str, Any], ...]:
    """Return the entries of the manifest, or skip the test without the folder."""
    if not manifest():
        pytest.skip("needs the folder golden beside HARNESS_DATA")
    return manifest()


def entries_of(module: str) -> Iterator[Entry]:
    """Yield the entries that belong to a test module, or skip the test without the folder."""
    files = [f"{file}.safetensors" for file, (home, _) in HOMES.items() if home == module]
    inputs = None
    for listed in whole():
        if listed["file"] not in files:
            continue
        inputs = inputs or stored_tensors("inputs")
        tensors = stored_tensors(listed["file"].removesuffix(".safetensors"))
        name = listed["id"].rpartition("/")[-1]
        yield Entry(
            id=listed["id"],
            x=inputs[name].clone() if name in inputs else None,
            stored={role: tensors[f"{listed['id']}/{role}"] for role in listed["sha256_16"]},
        )


def id_of(entry: Entry) -> str:
    """Return the id, for the note of a failing case."""
    return entry.id
