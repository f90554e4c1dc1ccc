"""Where the files of this repository lie."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf"
