"""Check that decode steps with a cache compute the logits of whole sequences.

A class that ignores its cache would run every step without context: fast and wrong. A cache of
fixed length is wrong for some architectures too, such as the local layers of GPT-Neo. So the class
must have an argument for a cache, and the model must give the same logits in both ways:

1. Run the first prompt whole, without a cache.
2. Run it again with a cache: all but its last tokens at once, then the last ones one at a time.
3. Compare the logits of the last tokens.
"""

import inspect
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedModel, StaticCache

from harness.engines.local.split_model import RUN_ERRORS
from harness.errors import ModelError
from harness.models.loaded import LoadedModel

CACHE_ARGUMENTS = ("past_key_values", "cache_params")
"""Names of `forward`'s argument for a cache. Models with recurrent states have the second."""
STEPS = 2
"""Tokens at the end of the prompt that run one at a time."""
EXACT, ROUNDED = 0.02, 0.25
"""Largest relative difference of logits: of float32 models, and of models whose rounding moves
logits. Without context the difference is near 1."""


def cache_argument(module: PreTrainedModel) -> str:
    """Return the name of `forward`'s argument for a cache, which is also the output's field.

    Raises:
        ModelError: The class has no such argument.
    """
    arguments = inspect.signature(module.forward).parameters
    for name in CACHE_ARGUMENTS:
        if name in arguments:
            return name
    raise ModelError(
        "the model must take a cache of transformers to decode token by token, got a "
        f"{type(module).__name__}, which takes none of {', '.join(CACHE_ARGUMENTS)}; "
        "choose another model"
    )


def new_cache(module: PreTrainedModel, length: int | None) -> Cache:
    """Return an empty cache of `length` tokens; one that grows with each token if it is None."""
    if length is None:
        return DynamicCache(config=module.config)
    return StaticCache(config=module.config, max_cache_len=length)


def check_decoding(loaded: LoadedModel, prompts_BS: Tensor, length: int | None) -> None:
    """Check that a model decodes with a cache as it runs whole sequences.

    Args:
        loaded: The model. Its unquantized weights are run: a recipe may change logits, but not
            what an architecture can do.
        prompts_BS: Token ids `[B, S]`; the first prompt is run.
        length: Length of the cache, as in `new_cache`.

    Raises:
        ModelError: Logits differ, or the model cannot run token by token.
    """
    kind = "growing" if length is None else "static"
    ids_1S = prompts_BS[:1].to(loaded.device)
    key = ("why it cannot decode", kind, ids_1S.shape[1])
    if reason := loaded.cached(key, lambda: _unsupported(loaded, ids_1S, length)):
        raise ModelError(
            f"the model must decode with a {kind} cache as it runs whole sequences, got a "
            f"{type(loaded.module).__name__}, but {reason}; "
            "choose another task.cache, or another model"
        )


@torch.inference_mode()
def _unsupported(loaded: LoadedModel, ids_1S: Tensor, length: int | None) -> str | None:
    """Return why a model cannot decode with a cache, or None if it can."""
    name, total = cache_argument(loaded.module), ids_1S.shape[1]
    # At least one token is run before the steps.
    first = max(1, total - STEPS)
    # Inside `unquantized` already: the caller times the baseline.
    with nullcontext() if loaded.is_float else loaded.unquantized():
        # 1. The whole prompt. Its last `STEPS` + 1 positions are the ones that step 2 gives.
        kept: dict[str, Any] = {"logits_to_keep": total - first + 1}
        whole = loaded.module(ids_1S, use_cache=False, **kept).logits[0].float()
        # 2. The same prompt on a cache.
        try:
            parts = _decoded(loaded, ids_1S, first, {name: new_cache(loaded.module, length)})
        except RUN_ERRORS as reason:
            return f"it does not run so ({type(reason).__name__}: {reason})"
    # 3. The difference of logits, relative to their size.
    expected = whole[-len(parts) :]
    errors = (torch.stack(parts) - expected).norm(dim=-1) / expected.norm(dim=-1)
    error = float(errors.max())
    # A quantized checkpoint may round activations in float32 models too.
    is_exact = loaded.dtype is torch.float32 and loaded.prequantized is None
    return (
        f"logits differ by {error:.1e} (relative)"
        if error > (EXACT if is_exact else ROUNDED)
        else None
    )


def _decoded(
    loaded: LoadedModel, ids_1S: Tensor, first: int, cache: dict[str, Cache]
) -> list[Tensor]:
    """Return logits `[V]` after the first `first` tokens, and after each further one."""
    total = ids_1S.shape[1]
    parts = []
    for start, stop in ((0, first), *((i, i + 1) for i in range(first, total))):
        # Positions are passed, as `generation` passes them.
        positions_1S = torch.arange(start, stop, device=ids_1S.device)[None]
        output = loaded.module(
            ids_1S[:, start:stop],
            position_ids=positions_1S,
            use_cache=True,
            logits_to_keep=1,
            **cache,
        )
        parts.append(output.logits[0, -1].float())
    return parts
