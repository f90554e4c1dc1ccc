"""Fields that came later, and the identity of the runs that came before."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from harness import config
from harness.identity import later, without_later_defaults
from harness.results.store import read

ROOT = Path(__file__).parents[2]
RECORDS = sorted((ROOT / "results").glob("*/*/*/*.json"))


@dataclass(frozen=True, kw_only=True)
class Source:
    """A component with a field that came later."""

    path: str
    attention: str | None = later(None)


def test_a_later_field_counts_only_with_another_value_than_its_default() -> None:
    assert Source(path="x").attention is None
    assert without_later_defaults(Source, {"path": "x", "attention": None}) == {"path": "x"}
    changed = {"path": "x", "attention": "eager"}
    assert without_later_defaults(Source, changed) == changed


def test_a_class_that_is_no_dataclass_keeps_every_key() -> None:
    assert without_later_defaults(int, {"real": 1}) == {"real": 1}


def test_every_record_on_file_has_the_identity_of_its_own_configuration() -> None:
    assert len(RECORDS) > 50
    other = []
    for path in RECORDS:
        record = read(path)
        device = record.model.device if record.model else "cpu"
        if config.config_hash(record.config, device) != record.config_hash:
            other.append(path.name)
    assert other == []


@pytest.mark.parametrize("key", ["model", "task"])
def test_a_hash_differs_where_a_value_does(key: str) -> None:
    node = {"_target_": "harness.models.tiny.TinyModel", "seed": 0}
    plain = {key: node, "allow_targets": []}
    changed = {key: node | {"seed": 1}, "allow_targets": []}
    assert config.config_hash(plain, "cpu") != config.config_hash(changed, "cpu")
