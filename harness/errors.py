"""Errors that a user must act on.

Every message has the same shape: *what* must be *constraint*, got *value*; *what to do*. A plain
`ValueError` marks a bad argument of a function; the classes here mark a run that cannot go on.
"""

import dataclasses
import errno
import os
from typing import Any

NO_MEMORY = ("DefaultCPUAllocator", os.strerror(errno.ENOMEM))
"""Words by which a RuntimeError or OSError says that memory ran out."""


class HarnessError(Exception):
    """Base of all errors whose message is printed without a traceback."""


class ConfigError(HarnessError):
    """A key or value of the configuration is unknown, missing or out of range."""


class DataError(HarnessError):
    """A data set is missing, malformed, or does not fit the task."""


class ModelError(HarnessError):
    """A model is missing, damaged, or does not fit the task."""


class UnsupportedRecipe(HarnessError):  # noqa: N818 - named for what it says of the recipe
    """A recipe cannot run here: this model, format or device has no exact path for it."""


class UnsupportedEngine(HarnessError):  # noqa: N818 - named for what it says of the engine
    """An engine cannot answer what a task asks."""


class AuditError(HarnessError):
    """A quantized weight is not what the recipe says."""


class InvalidResult(HarnessError):  # noqa: N818 - the run finished, its numbers are void
    """A measurement gave a value without meaning, such as a NaN score."""


class ResultError(HarnessError):
    """A file is not a whole record, or a folder has no record."""


class OutputError(HarnessError):
    """A file or folder cannot be written, or would overwrite one that the harness did not write."""


def check_bounds(component: Any, **least: float) -> None:
    """Check that fields of a dataclass are at least their least values; None passes.

    Args:
        component: The dataclass, as a rule in its `__post_init__`.
        **least: Field -> least value, such as `shots=0, limit=1`.

    Raises:
        ValueError: A field is smaller. The message reads `limit must be >= 1 or null, got 0`.
    """
    optional = {item.name for item in dataclasses.fields(component) if "None" in str(item.type)}
    for name, bound in least.items():
        value = getattr(component, name)
        if value is not None and value < bound:
            null = " or null" if name in optional else ""
            raise ValueError(f"{name} must be >= {bound}{null}, got {value}")


def own_error(reason: BaseException | None) -> HarnessError | None:
    """Return the harness's own error that a library wrapped in another error, or None."""
    # Some libraries set no cause; Python still keeps the context.
    while reason is not None and not isinstance(reason, HarnessError):
        reason = reason.__cause__ or reason.__context__
    return reason


def of_this_machine(reason: BaseException) -> str | None:
    """Return one line on an error of memory or of a file, and what to do; None for other errors."""
    said = next(iter(str(reason).splitlines()), "")
    # torch raises OutOfMemoryError for a GPU, RuntimeError for a CPU and for a file that it maps.
    names = [kind.__name__ for kind in type(reason).__mro__]
    is_memory = {"MemoryError", "OutOfMemoryError"} & set(names)
    if is_memory or any(words in said for words in NO_MEMORY):
        return (
            f"the run must fit into memory, got: {said or names[0]}; take a smaller "
            "model, tensor, window or batch, or another "
            "device"
        )
    if isinstance(reason, OSError) and reason.filename is not None:
        return (
            f"a file must be one that can be read, got {reason.filename}: {reason.strerror}; "
            "correct its path or its permissions"
        )
    return None
