"""Where downloads and converted copies lie, and the kinds of converted copies."""

import os
from pathlib import Path

CACHE = "HARNESS_CACHE"
"""Environment variable with the folder of downloads and conversions; errors name it."""
EXACT_COPY, BFLOAT16_COPY = "v2", "v1"
"""Parts of the cache key: copies with the values of the file, and copies rounded to bfloat16.

Change them when the conversion changes."""


def cache_folder() -> Path:
    """Return the folder for downloads and conversions: `$HARNESS_CACHE`, or the user's cache."""
    root = os.environ.get("HARNESS_CACHE")
    if root:
        return Path(root).expanduser()
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "quant-harness"
