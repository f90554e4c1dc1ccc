"""Hooks on the activations that a target is multiplied with, to round them or to record them.

A linear layer is called with its input. The experts of a fused stack have no calls of their own: while the module that owns the
stack runs, every matmul with the stack hands over its other operand, the tokens routed to one expert at a time.
"""

from collections.abc import Callable

import torch
from torch import nn

from harness.models.loaded import LoadedModel
from harness.models.targets.targets import Target
from harness.models.targets.weight_matmuls import Operand, WeightMatmuls

Change = Callable[[torch.Tensor], torch.Tensor]


def change_inputs(loaded: LoadedModel, target: Target, change: Change) -> None:
    """Replace the activation `[.., K]` that a target is multiplied with by `change` of it, until `loaded.restore`."""
    for each in (target, *target.shared):
        if each.linear is not None:
            loaded.transform_input(each.owner, change)
        else:
            _around_matmuls(loaded, each.owner, each.attribute, change)


def _around_matmuls(loaded: LoadedModel, owner: nn.Module, attribute: str, change: Change) -> None:
    """Watch the matmuls with one parameter while its module runs."""
    running: list[WeightMatmuls] = []

    def seen(_: Operand, x: torch.Tensor) -> torch.Tensor:
        # Matrices of a batch belong to different experts, which must not share a scale.
        return change(x) if x.dim() == 2 else torch.stack([change(part) for part in x])

    def enter(_: nn.Module, __: tuple[torch.Tensor, ...]) -> None:
        weights = {} if loaded.is_float else {attribute: getattr(owner, attribute)}
        running.append(WeightMatmuls(weights, seen))
        running[-1].__enter__()  # type: ignore[no-untyped-call]

    def leave(_: nn.Module, __: tuple[torch.Tensor, ...], ___: object) -> None:
        running.pop().__exit__(None, None, None)  # type: ignore[no-untyped-call]

    loaded.hooks.append(owner.register_forward_pre_hook(enter))
    # Leave before other hooks of the module run, whose matmuls are not those of its forward.
    loaded.hooks.append(owner.register_forward_hook(leave, prepend=True, always_call=True))
