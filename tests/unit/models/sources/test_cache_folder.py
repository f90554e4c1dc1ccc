"""The folder of downloads and copies is where the environment says."""

from pathlib import Path

import pytest

from harness.models.sources.cache_folder import cache_folder


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"HARNESS_CACHE": "/a", "XDG_CACHE_HOME": "/b"}, "/a"),
        ({"XDG_CACHE_HOME": "/b"}, "/b/quant-harness"),
        ({"HARNESS_CACHE": "", "XDG_CACHE_HOME": "/b"}, "/b/quant-harness"),
        ({"HARNESS_CACHE": "~/mine"}, "/home/me/mine"),
        ({}, "/home/me/.cache/quant-harness"),
    ],
)
def test_cache_folder(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str
) -> None:
    for name in ("HARNESS_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/me")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cache_folder() == Path(expected)
