"""What a process looks up once, made to be looked up again."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def emptied(*functions: Any) -> Iterator[None]:
    """Empty the caches of functions (`functools.cache`) before and after the block."""
    try:
        for function in functions:
            function.cache_clear()
        yield
    finally:
        for function in functions:
            function.cache_clear()
