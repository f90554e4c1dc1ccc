"""Stored results are whole, and each is equal or listed as different (tests/support/golden.py)."""

import hashlib
import importlib.util
from collections import Counter
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from golden import HOMES, stored_tensors, whole

LISTED = {
    "test_golden_tables": 1,
    "test_golden_integers": 7,
    "test_golden_microscaling": 51,
    "test_golden_nvfp4": 25,
    "test_golden_qlora": 4,
    "test_golden_hifloat": 22,
}
"""How many entries each module lists as different."""


def test_every_entry_of_the_manifest_belongs_to_a_module() -> None:
    listed = Counter(entry["file"].removesuffix(".safetensors") for entry in whole())
    assert dict(listed) == {file: count for file, (_, count) in HOMES.items()}
    assert listed.total() == len({entry["id"] for entry in whole()}) == 863


def test_equal_and_listed_entries_together_are_all() -> None:
    equal, different = 0, 0
    for module, count in LISTED.items():
        known = known_different(module)
        files = [file for file, (home, _) in HOMES.items() if home == module]
        ids = [e["id"] for e in whole() if e["file"].removesuffix(".safetensors") in files]
        listed = [name for name in ids if any(fnmatchcase(name, glob) for glob in known)]
        assert len(listed) == count, module
        unused = [glob for glob in known if not any(fnmatchcase(name, glob) for name in ids)]
        assert unused == [], module
        different += len(listed)
        equal += len(ids) - len(listed)
    elsewhere = sum(count for home, count in HOMES.values() if home not in LISTED)
    assert equal + different + elsewhere == len(whole())


def test_tensors_are_those_the_manifest_was_made_with() -> None:
    for entry in whole():
        tensors = stored_tensors(entry["file"].removesuffix(".safetensors"))
        for role, digest in entry["sha256_16"].items():
            raw = tensors[f"{entry['id']}/{role}"].contiguous().flatten().view(torch.uint8)
            assert hashlib.sha256(raw.numpy().tobytes()).hexdigest()[:16] == digest, entry["id"]


def known_different(module: str) -> dict[str, Any]:
    path = Path(__file__).with_name(f"{module}.py")
    spec = importlib.util.spec_from_file_location(module, path)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded.KNOWN_DIFFERENT
