"""How much memory weights take, as they lie there.

`numel * element_size` is wrong for weights of quantization libraries: a torchao tensor says it is bfloat16 of the full shape and holds
packed codes, and the scales of bitsandbytes hang on the parameter, or on an object beside it. So everything that a module holds is
taken apart into tensors with memory of their own, and memory that several share (a tied head, a view) counts once.
"""

from collections.abc import Collection, Iterator
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass


def stored_bytes(module: nn.Module, without: Collection[nn.Module] = ()) -> int:
    """Return the memory of all tensors that a module and those inside of it hold [byte].

    Args:
        module: What is measured.
        without: Modules inside of it that are not counted; what they share with others still is.
    """
    sizes: dict[int, int] = {}
    seen: set[int] = set()
    for owner in module.modules():
        if owner in without:
            continue
        held = (*owner.parameters(recurse=False), *owner.buffers(recurse=False), *_others(owner))
        for tensor in (tensor for each in held for tensor in _parts(each, seen)):
            place = tensor.data_ptr() or id(tensor)
            sizes[place] = max(tensor.nbytes, sizes.get(place, 0))
    return sum(sizes.values())


def _others(owner: nn.Module) -> Iterator[Any]:
    """Yield what a module holds that is neither parameter nor buffer nor module."""
    return (value for name, value in vars(owner).items() if name not in vars(nn.Module()))


def _parts(value: Any, seen: set[int]) -> Iterator[Tensor]:
    """Yield the tensors with memory of a tensor, or of an object that holds some."""
    if id(value) in seen or isinstance(value, nn.Module) or callable(value):
        return
    seen.add(id(value))
    if isinstance(value, Tensor) and is_traceable_wrapper_subclass(value):
        names, _ = value.__tensor_flatten__()
        held = [getattr(value, name) for name in names]
    else:
        held = list(getattr(value, "__dict__", {}).values())
        if isinstance(value, Tensor):
            yield value
    for each in held:
        yield from _parts(each, seen)
