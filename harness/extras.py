"""Optional packages: a feature imports its own when it begins, and says which extra has them.

pyproject.toml lists the extras under `[project.optional-dependencies]`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from harness.errors import ConfigError


def install(extra: str) -> str:
    """Return the command that installs an extra, such as `plots`."""
    return f"pip install 'llm-quant-harness[{extra}]'"


def is_installed(package: str) -> bool:
    """Say whether a package can be imported, without importing it."""
    return find_spec(package) is not None


@contextmanager
def needed(extra: str, *, by: str) -> Iterator[None]:
    """Context manager for the imports of an extra's packages.

    Args:
        extra: The extra that installs them.
        by: What needs them, such as `task=lm_eval`.

    Raises:
        ConfigError: A package is missing, or too old for what is imported from it.
    """
    try:
        yield
    except ImportError as reason:
        raise ConfigError(
            f"{by} must find the packages of the extra {extra}, got: {reason}; {install(extra)}"
        ) from reason
