"""Weight matrices that are zero throughout: a checkpoint that was never written or trained, or lost a tensor."""

from torch import nn

SHOWN = 3
"""Matrices that the warning names."""


def zero_warnings(module: nn.Module) -> tuple[str, ...]:
    """Return a warning that counts and names the zero matrices of a model, if it has any."""
    matrices = {
        n: p
        for n, p in module.named_parameters()
        if p.dim() > 1 and p.is_floating_point() and not p.is_meta
    }
    zero = [name for name, p in matrices.items() if p.numel() and _is_zero(p)]
    if not zero:
        return ()
    names = ", ".join([*zero[:SHOWN], *(["..."] if len(zero) > SHOWN else [])])
    return (
        f"{len(zero)} of {len(matrices)} weight matrices are zero throughout ({names}): the checkpoint is not whole, or was never trained",
    )


def _is_zero(parameter: nn.Parameter) -> bool:
    # Nearly always the first row has the answer.
    return not bool(parameter[0].any()) and not bool(parameter.any())
