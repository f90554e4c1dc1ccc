"""The memory that weights take.

`numel * element_size` is wrong for weights of quantization libraries. A torchao tensor calls itself
a bfloat16 tensor of the full shape and holds packed codes. The scales of bitsandbytes are
attributes of the parameter, or of an object beside it. So everything that a module holds is taken
apart into tensors with memory of their own. Memory that several of them share, such as that of a
tied LM head, counts once.
"""

from collections.abc import Collection, Iterator
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass


def stored_bytes(module: nn.Module, without: Collection[nn.Module] = ()) -> int:
    """Return the memory of all tensors that a module and its parts hold [byte].

    Args:
        module: The module.
        without: Parts that do not count; memory that they share with other parts still does.
    """
    sizes: dict[int, int] = {}
    seen: set[int] = set()
    for owner in module.modules():
        if owner in without:
            continue
        held = (*owner.parameters(recurse=False), *owner.buffers(recurse=False), *_others(owner))
        for tensor in (tensor for each in held for tensor in _plain_tensors(each, seen)):
            place = tensor.data_ptr() or id(tensor)
            sizes[place] = max(tensor.nbytes, sizes.get(place, 0))
    return sum(sizes.values())


def _others(owner: nn.Module) -> Iterator[Any]:
    """Yield what a module holds beside parameters, buffers and modules."""
    return (value for name, value in vars(owner).items() if name not in vars(nn.Module()))


def _plain_tensors(value: Any, seen: set[int]) -> Iterator[Tensor]:
    """Yield the tensors with memory inside a tensor or another object."""
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
        yield from _plain_tensors(each, seen)
