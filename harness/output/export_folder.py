"""The manifest of an exported folder: it lists the files that belong to the export."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MANIFEST = "quant_harness.json"
README = "README.md"
RESULTS = ".eval_results"
"""Folder of results that `push=OWNER/NAME` adds. The manifest does not list it: a changed manifest
would be another model."""


def is_export(folder: Path) -> bool:
    """Return whether a folder holds an export, its results and no other file, by its manifest."""
    try:
        listed = set(json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"])
    # No manifest, or an old one that lists no files.
    except (OSError, ValueError, KeyError, TypeError):
        return False
    found = {file.relative_to(folder) for file in folder.rglob("*")}
    return {file.as_posix() for file in found if file.parts[0] != RESULTS} <= listed


def has_manifest(folder: Path) -> bool:
    """Return whether a folder was exported; files may have been added since."""
    return (folder / MANIFEST).is_file()


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file in the style of transformers."""
    file.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
