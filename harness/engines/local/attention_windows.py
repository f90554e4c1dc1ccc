"""Compare the keys that a layer's mask allows with the window that it passes to attention.

The attention of packed tokens (`tree_attention`) has no use for the masks of transformers: a layer
passes its window as the argument `sliding_window`, and all else is causal. Some classes (Qwen2-MoE,
PhiMoE) pass no window and rely on the mask alone. A few tokens do not show it: windows are
thousands of tokens long.

So two tokens run with a mask and an attention of our own. transformers builds a mask from a
function of two positions. Ours is the row of a far token, and our attention compares it with the
window that comes with it.
"""

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

from harness.engines.local.split_model import SplitModel
from harness.models.architecture import attention

WINDOWS = "harness_windows"
"""Name of this mask and this attention in transformers."""
UNLIMITED = 2**17
"""Distance of the farthest key for a model without a longest sequence [token]."""


@dataclass(slots=True)
class Check:
    """What the layers of one run see."""

    farthest: int
    """Distance of the farthest key that is looked at [token]."""
    agrees: int | None = None
    """Tokens of the longest sequence in which masks and windows agree; None for no limit."""


_running: ContextVar[Check] = ContextVar("check that runs")


def known_length(model: SplitModel) -> int | None:
    """Return the longest sequence in which layers see the keys of the windows that they name.

    None is no limit [token].

    Raises:
        ValueError: The model's attention cannot be replaced.
    """
    check = Check(model.loaded.max_length or UNLIMITED)
    token = _running.set(check)
    try:
        with attention(model.loaded.module, WINDOWS):
            model.hidden(torch.zeros(1, 2, dtype=torch.long))
    finally:
        _running.reset(token)
    return check.agrees


def _far_row(
    mask_function: Callable[..., Tensor], device: torch.device | str = "cpu", **_: Any
) -> Tensor:
    """Return which keys a token sees, the farthest first, for transformers: bool `[1, 1, 1, K]`."""
    keys = torch.arange(_running.get().farthest + 1, device=device)
    first = torch.zeros_like(keys[:1])
    return mask_function(first, first, keys[-1:], keys).expand(len(keys))[None, None, None]


def _compare(
    module: nn.Module,  # noqa: ARG001 - all layers are alike here
    query: Tensor,
    key: Tensor,  # noqa: ARG001 - each token gets its own value
    value: Tensor,
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Compare mask and window of a layer, for transformers; see `tree_attention` for shapes."""
    check, window = _running.get(), options.get("sliding_window")
    # Where a model makes no mask, there is nothing to compare.
    if attention_mask is not None:
        # By distance, the token itself first.
        sees = attention_mask.flatten().flip(0)
        names = torch.arange(check.farthest + 1, device=sees.device) < (window or len(sees))
        if len(differs := (sees != names).nonzero()):
            # In a sequence of N tokens no key is farther away than N - 1.
            agrees = int(differs[0])
            check.agrees = agrees if check.agrees is None else min(agrees, check.agrees)
    out = value.repeat_interleave(query.shape[1] // value.shape[1], 1)
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register(WINDOWS, _compare)
AttentionMaskInterface.register(WINDOWS, _far_row)
