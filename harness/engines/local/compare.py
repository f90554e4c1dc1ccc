r"""Compare the next-token distributions of two engines on the same requests.

    hidden_q = body of the candidate(request)      hidden_p = body of the baseline(request)
    for each chunk of positions: float32 logits of both -> statistics of each token; drop the logits

Two engines may share one loaded model: a recipe and the unquantized weights, or two attention
kernels. Then the model is split once, and each engine puts it into its own state for every pass.
Logits exist for one chunk of positions at a time, because those of a window of 2048 tokens take
hundreds of megabytes.

Peak memory beside the model and one forward pass: the hidden states that the loaded model keeps
(`KEPT_BYTES` at most), the logits of two chunks (2 x 32 MiB on a CPU, 2 x 512 MiB on a GPU), a
float32 copy of each LM head that is stored in another type, and 40 bytes for each token. Measured
on SmolLM2-135M and a CPU: 0.25 GiB in float32, 0.5 GiB in bfloat16.
"""

from collections.abc import Hashable, Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from harness.data.token_hash import hash_token_ids
from harness.engines.local.kl_divergence import compare_logits
from harness.engines.local.split_model import SplitModel, split
from harness.engines.requests import Compared, Score

if TYPE_CHECKING:
    from harness.engines.local.engine import LocalEngine

KEPT_BYTES = 2**30
"""Hidden states of the baseline that a loaded model keeps, over all tasks of a sweep [byte]."""


def compare(
    candidate: "LocalEngine", baseline: "LocalEngine", requests: Sequence[Score]
) -> Iterator[tuple[int, Compared]]:
    """Yield the index of each request, in order, and the statistics `[T]` of its continuation."""
    with ExitStack() as splits:
        model = splits.enter_context(split(candidate.loaded))
        is_shared = baseline.loaded is candidate.loaded
        base = model if is_shared else splits.enter_context(split(baseline.loaded))
        hidden = _hidden(candidate, model, requests), _kept_hidden(baseline, base, requests)
        for index, (request, q_LH, p_LH) in enumerate(zip(requests, *hidden, strict=True)):
            # The hidden state of a position predicts the next token; the last one predicts none.
            scored = slice(len(request.context) - 1, -1)
            targets_T = torch.tensor(request.continuation, device=candidate.loaded.device)
            chunks = [model.chunks(rows) for rows in (q_LH[scored], p_LH[scored], targets_T)]
            parts = [
                compare_logits(
                    _logits(candidate, model, q_NH), _logits(baseline, base, p_NH), targets_N
                )
                for q_NH, p_NH, targets_N in zip(*chunks, strict=True)
            ]
            yield index, Compared(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def _logits(engine: "LocalEngine", model: SplitModel, hidden_NH: Tensor) -> Tensor:
    """Return the float32 logits `[N, V]` of an engine's hidden states."""
    with engine.within():
        return model.logits(hidden_NH)


def _hidden(
    engine: "LocalEngine", model: SplitModel, requests: Sequence[Score]
) -> Iterator[Tensor]:
    """Yield the hidden states `[L, H]` of each request of L tokens; a pass runs `compared_at_once`.

    The last token runs as well, though nothing is read at its position: a matmul of another shape
    rounds in another way, and the numbers on file are those of whole windows.
    """
    count, rows = len(requests), engine.compared_at_once
    for start in range(0, count, rows):
        # The last pass is filled up with the first requests, so that all have one shape.
        batch = [requests[(start + row) % count] for row in range(rows)]
        ids = [torch.tensor([*request.context, *request.continuation]) for request in batch]
        with engine.within():
            states_BLH = model.hidden(pad_sequence(ids, batch_first=True))
        for row_L, states_LH in zip(ids[: count - start], states_BLH, strict=False):
            yield states_LH[: len(row_L)]


def _kept_hidden(
    engine: "LocalEngine", model: SplitModel, requests: Sequence[Score]
) -> Iterator[Tensor]:
    """Yield what `_hidden` yields; the loaded model keeps the states of its unquantized weights.

    So a baseline runs once in a sweep. Hidden states take a few megabytes for each window, logits
    take hundreds. Requests whose states do not fit into `KEPT_BYTES` run again for the next recipe.
    """
    if not engine.is_as_loaded:
        yield from _hidden(engine, model, requests)
        return
    loaded = engine.loaded
    kept: dict[Hashable, Tensor] = loaded.cached("baseline hidden states", dict)
    for request in requests:
        # Another attention kernel sums in another order and gives other states.
        key = hash_token_ids([(*request.context, *request.continuation)]), loaded.attention
        if key in kept:
            yield kept[key].to(loaded.device)
            continue
        (states_LH,) = _hidden(engine, model, [request])
        if sum(states.nbytes for states in kept.values()) + states_LH.nbytes <= KEPT_BYTES:
            kept[key] = states_LH.cpu()
        yield states_LH
