"""Say whether the prompts of a model can share a prefix.

A wrong yes would give wrong scores without an error. So an architecture is never taken at its
name; four questions are asked in this order:

1. Does every layer have keys that depend on earlier tokens and positions alone? (configuration)
2. Are positions independent of the length of the whole prompt? (configuration)
3. Do a few tokens after a shared prefix have the hidden states that they have in whole prompts?
   (the model runs both ways)
4. Does every layer see the keys of the window that it passes to attention? (`attention_windows`)
"""

import torch
from transformers.cache_utils import get_layer_types_and_kwargs

from harness.engines.local.attention_windows import known_length
from harness.engines.local.positions import changes
from harness.engines.local.split_model import RUN_ERRORS, SplitModel
from harness.engines.local.tree_pass import Kept, run_pass
from harness.engines.requests import Generate
from harness.engines.tree import prefix_tree
from harness.models.architecture import ATTENTION_TOLERANCE, text_config
from harness.models.tokens import num_rows

SHAREABLE_LAYERS = ("full_attention", "sliding_attention")
"""Kinds of layers whose keys depend on earlier tokens and positions, and on nothing else."""


def unsupported(model: SplitModel, longest: int) -> str | None:
    """Return why sequences of up to `longest` tokens cannot share a prefix, or None if they can."""
    kinds, _ = get_layer_types_and_kwargs(text_config(model.loaded.module))
    if odd := sorted(set(kinds) - set(SHAREABLE_LAYERS)):
        return f"it has layers of the kind {', '.join(odd)}"
    if any(longest > length for length in changes(model.loaded)):
        return "its positions change with the length of the whole prompt"
    if reason := model.loaded.cached(
        "why prompts cannot share a prefix", lambda: _difference(model)
    ):
        return reason
    known = model.loaded.cached("length up to which windows are known", lambda: _known(model))
    if known is None or longest <= known:
        return None
    return f"beyond {known} tokens its layers see other keys than those of the windows they name"


def _difference(model: SplitModel) -> str | None:
    """Run a small batch of the unquantized model both ways; return what differs, or None."""
    loaded = model.loaded
    # Ids from 100 up: the first ids of a vocabulary are often special tokens.
    tokens = [token % num_rows(loaded) for token in range(100, 140)]
    # A prefix of 20 tokens, and rows of 4, 5 and 11: rows of unequal length need padding.
    shared, rows = tokens[:20], (tokens[20:24], tokens[24:29], tokens[29:])
    tree = prefix_tree([Generate((*shared, *row), 1) for row in rows])
    with loaded.unquantized():
        ids = [torch.from_numpy(each.astype("i8"))[None] for each in tree.sequences]
        whole = [model.hidden(ids_1S)[:, -1] for ids_1S in ids]
        kept = Kept()
        try:
            # The prefix in a pass of its own, whose keys are kept, and the rows in another.
            run_pass(model, tree, range(1), kept, {0})
            hidden, places = run_pass(model, tree, range(1, len(tree)), kept, set())
        except RUN_ERRORS as reason:
            return f"its attention cannot be replaced ({type(reason).__name__}: {reason})"
    # A sequence ends before the place where the next node begins. Place 0 belongs to node 1.
    found = hidden[torch.from_numpy(places[tree.last] - 1)]
    # The relative norm, as for two attention implementations (`ATTENTION_TOLERANCE`).
    expected = torch.cat(whole).float()
    error = float((found.float() - expected).norm() / expected.norm())
    if error <= ATTENTION_TOLERANCE[loaded.dtype]:
        return None
    return f"tokens after a shared prefix got other hidden states (relative difference {error:.1e})"


def _known(model: SplitModel) -> int | None:
    with model.loaded.unquantized():
        try:
            return known_length(model)
        except RUN_ERRORS:  # a mask that cannot be read is not known for any length
            return 0
