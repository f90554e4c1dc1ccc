"""Buffers that move with their module but never change type: scales and ranges are float32 whatever the weights are."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def exact_buffers(module: nn.Module) -> Iterator[None]:
    """Undo casts of a module's own buffers when the context ends; moves to a device stay."""
    before = dict(module.named_buffers(recurse=False))
    yield
    for name, buffer in before.items():
        moved = module.get_buffer(name)
        if moved.dtype != buffer.dtype:
            setattr(module, name, buffer.to(moved.device))
