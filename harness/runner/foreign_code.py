"""Code outside of this package that a run is made with: that of the classes which `allow_targets` lets a configuration name.

A format of a user's own has no version. Its record holds a hash of the source, so that an edited format is measured again.
"""

import hashlib
import importlib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from harness.identity import OWN_PACKAGE


def foreign_code(resolved: Mapping[str, Any]) -> dict[str, str]:
    """Return the SHA-256 of the source of each foreign package that a configuration names a class of.

    Args:
        resolved: A configuration whose components have been built, so that its packages can be imported.
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


@cache  # a process imports a module once, whatever becomes of its file
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
