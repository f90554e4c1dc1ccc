"""Check that decode steps of a model compute the logits that whole sequences have.

A class that ignores its cache would run every step without context, fast and wrong. A cache of fixed length is wrong for some
architectures too (GPT-Neo's local layers). So the class must have an argument for a cache, and the model must give the same logits.
"""

import inspect
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedModel, StaticCache

from harness.engines.local.split_model import REFUSALS
from harness.errors import ModelError
from harness.models.loaded import LoadedModel

CACHES = ("past_key_values", "cache_params")
"""Names of the argument for a cache; models with recurrent states have the second."""
DECODED = 2
"""Number of tokens that are run one at a time in the comparison."""
EXACT, ROUNDED = 0.02, 0.25
"""Largest relative difference of logits: of float32 models, and of others, whose rounding moves logits. Without context it is near 1."""


def cache_argument(module: PreTrainedModel) -> str:
    """Return the name of `forward`'s argument for a cache, and of the output's field.

    Raises:
        ModelError: The class has none.
    """
    taken = inspect.signature(module.forward).parameters
    for name in CACHES:
        if name in taken:
            return name
    raise ModelError(
        f"the model must take a cache of transformers to decode token by token, got a {type(module).__name__}, "
        f"which takes none of {', '.join(CACHES)}; choose another model"
    )


def new_cache(module: PreTrainedModel, length: int | None) -> Cache:
    """Return an empty cache: of a fixed length, or one that grows if it is None."""
    if length is None:
        return DynamicCache(config=module.config)
    return StaticCache(config=module.config, max_cache_len=length)


def check_decoding(loaded: LoadedModel, prompts_BS: Tensor, length: int | None) -> None:
    """Compare the last tokens of the first prompt, run one at a time, with the whole prompt.

    Args:
        loaded: The model, which is run with its float weights: a recipe may change logits, but not what the architecture can do.
        prompts_BS: Token ids.
        length: See `new_cache`.

    Raises:
        ModelError: Logits differ, or the model cannot run token by token.
    """
    kind = "growing" if length is None else "static"
    ids_1S = prompts_BS[:1].to(loaded.device)
    key = ("reason against decoding", kind, ids_1S.shape[1])
    if reason := loaded.cached(key, lambda: _reason(loaded, ids_1S, length)):
        raise ModelError(
            f"the model must decode with a {kind} cache as it runs whole sequences, got a {type(loaded.module).__name__}, but "
            f"{reason}; choose another task.cache, or another model"
        )


@torch.inference_mode()
def _reason(loaded: LoadedModel, ids_1S: Tensor, length: int | None) -> str | None:
    name, total = cache_argument(loaded.module), ids_1S.shape[1]
    first = max(1, total - DECODED)
    options: dict[str, Any] = {"logits_to_keep": total - first + 1}
    with nullcontext() if loaded.is_float else loaded.unquantized():
        whole = loaded.module(ids_1S, use_cache=False, **options).logits[0].float()
        parts = []
        try:
            options = {"logits_to_keep": 1, name: new_cache(loaded.module, length)}
            for start, stop in ((0, first), *((i, i + 1) for i in range(first, total))):
                positions_1S = torch.arange(start, stop, device=ids_1S.device)[None]
                output = loaded.module(
                    ids_1S[:, start:stop], position_ids=positions_1S, use_cache=True, **options
                )
                parts.append(output.logits[0, -1].float())
        except REFUSALS as reason:
            return f"it does not run so ({type(reason).__name__}: {reason})"
    expected = whole[-len(parts) :]
    errors = (torch.stack(parts) - expected).norm(dim=-1) / expected.norm(dim=-1)
    error = float(errors.max())
    exact = loaded.dtype is torch.float32 and loaded.prequantized is None
    most = EXACT if exact else ROUNDED
    return f"logits differ by {error:.1e} (relative)" if error > most else None
