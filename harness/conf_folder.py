"""Where `conf/` lies: in a wheel in the package, in a source tree beside it."""

from pathlib import Path

PACKAGE = Path(__file__).parent
CONF = next(folder for folder in (PACKAGE / "conf", PACKAGE.parent / "conf") if folder.is_dir())
DATA_FOLDERS = ("anchors",)
"""Folders of `conf/` that hold data, not options of a run. Hydra takes every folder for a group."""
