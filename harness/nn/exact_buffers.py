"""Buffers that move with their module and keep their type: scales and ranges stay float32."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def exact_buffers(module: nn.Module) -> Iterator[None]:
    """Undo casts of a module's own buffers when the context ends. Moves to a device stay."""
    before = dict(module.named_buffers(recurse=False))
    yield
    for name, buffer in before.items():
        moved = module.get_buffer(name)
        if moved.dtype != buffer.dtype:
            setattr(module, name, buffer.to(moved.device))
