"""Put something in the place of a method of one object, for a while."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def patched(owner: object, method: str, replacement: Callable[..., Any]) -> Iterator[None]:
    """Let `owner.method` be `replacement` inside the block, then what it was before.

    An attribute of the instance hides the method of the class; other instances are untouched.
    """
    before = vars(owner).get(method)
    setattr(owner, method, replacement)
    try:
        yield
    finally:
        if before is None:
            delattr(owner, method)
        else:
            setattr(owner, method, before)
