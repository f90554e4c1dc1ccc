"""Change the activations that a target is multiplied with, to round or to record them.

A linear layer has a call of its own, so a hook before the call suffices. The experts of a fused
stack have none. There, every matmul with the stack is watched while its module runs. The other
operand of the matmul is the activation: the tokens that are routed to one expert.
"""

from collections.abc import Callable

import torch
from torch import nn

from harness.models.loaded import LoadedModel
from harness.models.targets.targets import Target
from harness.models.targets.weight_matmuls import Operand, WeightMatmuls

ChangeActivation = Callable[[torch.Tensor], torch.Tensor]


def change_inputs(loaded: LoadedModel, target: Target, change: ChangeActivation) -> None:
    """Replace the activation `[.., K]` of a target by `change` of it, until `loaded.restore`."""
    for each in (target, *target.shared):
        if each.linear is not None:
            loaded.transform_input(each.owner, change)
        else:
            _around_matmuls(loaded, each.owner, each.attribute, change)


def _around_matmuls(
    loaded: LoadedModel, owner: nn.Module, attribute: str, change: ChangeActivation
) -> None:
    """Watch the matmuls with one parameter while the module that owns it runs."""
    running: list[WeightMatmuls] = []

    def seen(_: Operand, x: torch.Tensor) -> torch.Tensor:
        # The matrices of a batched matmul are of different experts, which must not share a scale.
        return change(x) if x.dim() == 2 else torch.stack([change(part) for part in x])

    def enter(_: nn.Module, __: tuple[torch.Tensor, ...]) -> None:
        weights = {} if loaded.is_float else {attribute: getattr(owner, attribute)}
        running.append(WeightMatmuls(weights, seen))
        running[-1].__enter__()  # type: ignore[no-untyped-call]

    def leave(_: nn.Module, __: tuple[torch.Tensor, ...], ___: object) -> None:
        running.pop().__exit__(None, None, None)  # type: ignore[no-untyped-call]

    loaded.hooks.append(owner.register_forward_pre_hook(enter))
    # Leave before other hooks of the module run: their matmuls are no part of its forward.
    loaded.hooks.append(owner.register_forward_hook(leave, prepend=True, always_call=True))
