"""Warnings about a loaded model: what was left out, corrected, or is zero.

1. A class may ignore stored tensors by design, such as a head for speculative decoding, or the
   position frequencies that old checkpoints store.
2. A folder may have an adapter beside the weights.
3. A config may tie two weights that the files hold apart.
4. A weight matrix may be zero throughout: the checkpoint was never written or trained, or lost a
   tensor.
"""

from collections.abc import Collection
from pathlib import Path

from torch import nn
from transformers import PreTrainedModel

from harness.models.checkpoints.folder_files import ADAPTER, CONFIG
from harness.models.checkpoints.loading_report import first_names, ignored_tensors
from harness.models.checkpoints.stored_tensors import stored_tensors


def loading_warnings(
    folder: Path, module: PreTrainedModel, parts: Collection[str] = ()
) -> list[str]:
    """Return warnings for the user about a loaded folder.

    Args:
        folder: The folder.
        module: The loaded model. If its config ties two weights that the files hold apart, this
            function corrects the config.
        parts: Stored tensors that `check_loading` returned.
    """
    ignored = ignored_tensors(stored_tensors(folder), module)
    found = [
        f"{len(names)} stored tensors are not used: {first_names(names)}; {reason}"
        for names, reason in (
            (ignored, f"{type(module).__name__} ignores them by design"),
            (sorted(parts), "they belong to other parts than the text model"),
        )
        if names
    ]
    if (folder / ADAPTER).is_file():
        found.append(
            f"the adapter beside the weights ({ADAPTER}) is not applied: the model is measured "
            "without it"
        )
    return found + [
        f"{CONFIG} ties {target} to {source}, but the files hold two different tensors; both are "
        "used as they are stored"
        for target, source in _untie(module).items()
    ]


def _untie(module: PreTrainedModel) -> dict[str, str]:
    """Return weights that the config ties but the files hold apart; untie them in the config.

    Otherwise transformers would tie them later.
    """
    tied = module.get_expanded_tied_weights_keys(all_submodels=True)
    weights = dict(module.named_parameters(remove_duplicate=False))
    apart = {
        target: source
        for target, source in tied.items()
        if {target, source} <= weights.keys() and weights[target] is not weights[source]
    }
    if apart:
        module.config.tie_word_embeddings = False
    return apart


def zero_warnings(module: nn.Module) -> tuple[str, ...]:
    """Return a warning that counts and names the zero matrices of a model; empty if it has none."""
    matrices = {name: p for name, p in module.named_parameters() if _is_float_matrix(p)}
    zero = [name for name, p in matrices.items() if _is_zero(p)]
    if not zero:
        return ()
    return (
        f"{len(zero)} of {len(matrices)} weight matrices are zero throughout "
        f"({first_names(zero)}): the checkpoint is not whole, or was never trained",
    )


def _is_float_matrix(parameter: nn.Parameter) -> bool:
    """Return whether a parameter is a matrix of floats; codes have narrow types or a subclass."""
    is_float = parameter.is_floating_point() and parameter.dtype.itemsize > 1
    is_plain = type(parameter) is nn.Parameter and not parameter.is_meta
    return is_plain and is_float and parameter.dim() > 1 and parameter.numel() > 0


def _is_zero(parameter: nn.Parameter) -> bool:
    # The first row alone nearly always has a number that is not zero.
    return not bool(parameter[0].any()) and not bool(parameter.any())
