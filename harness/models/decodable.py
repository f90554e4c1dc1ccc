"""Do decode steps of a model compute what whole sequences do? Asked of its class, then of the model itself.

A class that takes no notice of a cache would run every step without its context: fast, and no decoding at all. A cache of fixed
length is not right for every architecture either (GPT-Neo's local layers).
"""

import inspect
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedModel, StaticCache

from harness.errors import ModelError
from harness.models.head import REFUSALS
from harness.models.source import LoadedModel

CACHES = ("past_key_values", "cache_params")
"""What classes call their cache; those of recurrent states have the second."""
DECODED = 2
"""Tokens that run alone in the comparison."""
EXACT, ROUNDED = 0.02, 0.25
"""Largest relative difference of logits: in float32, and where 16 bits or rounded inputs are in between. A lost context is near 1."""


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
        loaded: The model; its float weights are asked, so that what a recipe destroys is not blamed on the architecture.
        prompts_BS: Token ids.
        length: See `new_cache`.

    Raises:
        ModelError: They differ, or the model does not run so.
    """
    kind = "growing" if length is None else "static"
    ids_1S = prompts_BS[:1].to(loaded.device)
    key = ("obstacle to decoding", kind, ids_1S.shape[1])
    if reason := loaded.once(key, lambda: _obstacle(loaded, ids_1S, length)):
        raise ModelError(
            f"the model must decode with a {kind} cache as it runs whole sequences, got a {type(loaded.module).__name__}, but "
            f"{reason}; choose another task.cache, or another model"
        )


@torch.inference_mode()
def _obstacle(loaded: LoadedModel, ids_1S: Tensor, length: int | None) -> str | None:
    name, total = cache_argument(loaded.module), ids_1S.shape[1]
    first = max(1, total - DECODED)
    options: dict[str, Any] = {"logits_to_keep": total - first + 1}
    with nullcontext() if loaded.is_float else loaded.in_float():
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
