"""Replace a method of one object for the length of a block."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def patched(owner: object, method: str, replacement: Callable[..., Any]) -> Iterator[None]:
    """Context manager in which `owner.method` is `replacement`.

    The replacement is an attribute of the instance, which hides the method of its class. Other
    instances are untouched.
    """
    before = vars(owner).get(method)
    setattr(owner, method, replacement)
    try:
        yield
    finally:
        if before is None:
            delattr(owner, method)  # the method of the class is visible again
        else:
            setattr(owner, method, before)  # an outer patch
