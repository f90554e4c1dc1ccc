"""Weight matrices that are zero throughout: a checkpoint that was never written or trained, or lost a tensor."""

from torch import nn

from harness.models.checkpoints.loading_report import shown


def zero_warnings(module: nn.Module) -> tuple[str, ...]:
    """Return a warning that counts and names the zero matrices of a model, if it has any."""
    matrices = {name: p for name, p in module.named_parameters() if _is_float_matrix(p)}
    zero = [name for name, p in matrices.items() if _is_zero(p)]
    if not zero:
        return ()
    return (
        f"{len(zero)} of {len(matrices)} weight matrices are zero throughout ({shown(zero)}): the checkpoint is not whole, or was never trained",
    )


def _is_float_matrix(parameter: nn.Parameter) -> bool:
    """Leave out codes, which libraries keep in subclasses and in narrow types."""
    is_float = parameter.is_floating_point() and parameter.dtype.itemsize > 1
    is_plain = type(parameter) is nn.Parameter and not parameter.is_meta
    return is_plain and is_float and parameter.dim() > 1 and parameter.numel() > 0


def _is_zero(parameter: nn.Parameter) -> bool:
    # Nearly always the first row has the answer.
    return not bool(parameter[0].any()) and not bool(parameter.any())
