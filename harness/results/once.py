"""Samples are read once: what is made of them is kept until the file changes.

Parts of a report ask for the same samples several times. They are large, so none are kept whole:
a function that makes something small of them is decorated with `once_a_file`.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import lru_cache
from typing import Concatenate, ParamSpec, TypeAlias, TypeVar

from harness.results.store import Stored, read_samples

Made = TypeVar("Made")
More = ParamSpec("More")
OfSamples: TypeAlias = Callable[Concatenate[Stored, More], Made]
KEPT = 10_000
"""Results of a function that are kept; a report over more records reads some of them again."""


def once_a_file(keep: int = KEPT) -> Callable[[OfSamples[More, Made]], OfSamples[More, Made]]:
    """Decorate a function of a record's samples: it is called once for each state of their file.

    Args:
        keep: Number of results that are kept, the latest first. Errors are not kept.
    """

    def decorated(make: OfSamples[More, Made]) -> OfSamples[More, Made]:
        kept: OrderedDict[Hashable, Made] = OrderedDict()

        def found(stored: Stored, /, *more: More.args, **named: More.kwargs) -> Made:
            key = (_state(stored), more, tuple(named.items()))
            if key not in kept:
                kept[key] = make(stored, *more, **named)
            kept.move_to_end(key)
            if len(kept) > keep:
                kept.popitem(last=False)
            return kept[key]

        return found

    return decorated


def _state(stored: Stored) -> Hashable:
    """Return what identifies the content of a samples file: path, part, hash, size and time."""
    name, record = stored.record.samples_file, stored.record
    try:
        found = (stored.path.parent / str(name)).stat()
    except (OSError, ValueError):  # the function that reads the file says what is wrong
        state = None
    else:
        state = found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino
    return stored.path, name, stored.part, record.samples_sha256, state


latest_samples = once_a_file(keep=1)(read_samples)
"""`read_samples` that keeps the table of the file that was read last. Never change the table."""


@lru_cache(maxsize=100)
def shared(ids: tuple[str, ...]) -> tuple[str, ...]:
    """Return the tuple that was first seen with these ids: runs over equal samples share one."""
    return ids
