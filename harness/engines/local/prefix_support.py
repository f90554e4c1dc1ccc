"""Can prompts of a model share a prefix? Asked of its configuration, then of the model itself.

A wrong yes would give wrong scores without an error, so what an unknown architecture does with its keys is not guessed: a
few tokens after a shared prefix must get the hidden states that they have in whole prompts.
"""

from collections.abc import Iterator

import torch
from transformers.cache_utils import get_layer_types_and_kwargs

from harness.engines.local.shared_prefix import PackedRows, run_prefix
from harness.engines.local.split_model import REFUSALS, SplitModel
from harness.models.architecture import ATTENTION_TOLERANCE, text_config
from harness.models.tokens import num_rows

KINDS = ("full_attention", "sliding_attention")
"""Kinds of layers whose keys depend on tokens and positions before them, and on nothing else."""
SCALED = ("dynamic", "longrope")
"""Kinds of rotary positions that change with the length of the whole prompt, once it exceeds the original one."""


def obstacle(halves: SplitModel, longest: int) -> str | None:
    """Return why prompts of up to `longest` tokens cannot share a prefix, or None if they can."""
    config = text_config(halves.loaded.module)
    kinds, _ = get_layer_types_and_kwargs(config)
    if odd := sorted(set(kinds) - set(KINDS)):
        return f"it has layers of the kind {', '.join(odd)}"
    rope = getattr(config, "rope_parameters", None) or {}
    original = rope.get("original_max_position_embeddings") or halves.loaded.max_length
    if original and longest > original and set(SCALED) & set(_texts(rope)):
        return "its positions change with the length of the whole prompt"
    return halves.loaded.cached("obstacle to a shared prefix", lambda: _difference(halves))


def _texts(node: object) -> Iterator[str]:
    """Yield every text in nested mappings; some models have rotary parameters for each kind of layer."""
    if isinstance(node, dict):
        for child in node.values():
            yield from _texts(child)
    elif isinstance(node, str):
        yield node


def _difference(halves: SplitModel) -> str | None:
    """Run a small batch of the float model both ways; return what is wrong with the shared one, or None."""
    loaded = halves.loaded
    tokens = [token % num_rows(loaded) for token in range(100, 140)]
    shared, rows = tokens[:20], (tokens[20:24], tokens[24:35], tokens[35:])
    with loaded.unquantized():
        whole = [halves.hidden(torch.tensor([[*shared, *row]]))[:, -1] for row in rows]
        try:
            packed = PackedRows.make(run_prefix(halves, shared), [len(row) for row in rows])
            found = packed.prefill(halves, rows, keep=False)
        except REFUSALS as reason:
            return f"its attention cannot be replaced ({type(reason).__name__}: {reason})"
    expected = torch.cat(whole).float()
    error = float((found.float() - expected).norm() / expected.norm())
    if error <= ATTENTION_TOLERANCE[loaded.dtype]:
        return None
    return f"tokens after a shared prefix got other hidden states (relative difference {error:.1e})"
