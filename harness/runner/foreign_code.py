"""Hash the source of a user's own classes, which `allow_targets` lets a configuration name.

A format of a user has no version. Its records hold the hash, so an edited format is measured again.
"""

import hashlib
import importlib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from harness.identity import OWN_PACKAGE


def foreign_code(resolved: Mapping[str, Any]) -> dict[str, str]:
    """Return package -> SHA-256 of its source, for each foreign package of a configuration.

    Args:
        resolved: A configuration whose components are built, so its packages can be imported.
    """
    packages = {target.partition(".")[0] for target in _targets(resolved)} - {OWN_PACKAGE}
    return {package: _sha256(package) for package in sorted(packages)}


def _targets(node: Any) -> Iterator[str]:
    """Yield every `_target_` of a configuration."""
    if isinstance(node, Mapping):
        if isinstance(target := node.get("_target_"), str):
            yield target
        node = [*node.values()]
    for child in node if isinstance(node, list | tuple) else ():
        yield from _targets(child)


@cache  # a process imports a module once, even if its file changes
def _sha256(package: str) -> str:
    """Return the hash of the Python files of a package, or of the file of a module."""
    module = importlib.import_module(package)
    folders = getattr(module, "__path__", ())
    files = sorted(file for folder in folders for file in Path(folder).rglob("*.py"))
    if not folders and module.__file__ is not None:
        files = [Path(module.__file__)]
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name}:{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()
