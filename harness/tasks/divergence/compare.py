r"""Compare the next-token distributions of two models on the same windows.

    hidden_q = body of the candidate(window)      hidden_p = body of the baseline(window)
    for each chunk of positions: float32 logits of both -> statistics of each token; drop the logits

A `Side` is a model in the state that is to be compared: with a recipe, unquantized, or with another
attention kernel. One loaded model can be both sides. Logits exist for one chunk of positions at a
time, because those of a whole window take hundreds of megabytes.

Peak memory beside the model and one forward pass: the hidden states that `KeptSide` keeps (1 GiB at
most), the logits of two chunks (2 x 32 MiB on a CPU, 2 x 512 MiB on a GPU), a float32 copy of each
LM head that is stored in another type, and 40 bytes for each token. Measured on SmolLM2-135M and a
CPU: 0.25 GiB in float32, 0.5 GiB in bfloat16.
"""

from collections.abc import Hashable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from harness.display.progress import bar
from harness.engines.local.split_model import SplitModel
from harness.errors import InvalidResult
from harness.results.record import SampleScore
from harness.tasks.baselines import Become
from harness.tasks.degenerate import text_warnings
from harness.tasks.divergence.statistics import Array, TokenPairs, compare_logits
from harness.tasks.windows import (
    DocumentIds,
    Windows,
    document_words,
)

KEPT_BYTES = 2**30
"""Hidden states of the baseline that a loaded model keeps, over all tasks of a sweep [byte]."""


@dataclass(frozen=True)
class Side:
    """One of two models that are compared."""

    model: SplitModel
    within: Become = nullcontext
    """Context manager inside which `model` is in the state to be compared."""

    def hidden(self, windows: Windows) -> Iterator[Tensor]:
        """Yield the hidden states `[L, H]` of each window, which runs alone."""
        for ids_L in windows.ids:
            yield self._run(ids_L[None])[0]

    def logits(self, hidden_NH: Tensor) -> Tensor:
        """Return the float32 logits `[N, V]` of hidden states `[N, H]`."""
        with self.within():
            return self.model.logits(hidden_NH)

    def _run(self, ids_BL: Tensor) -> Tensor:
        with self.within():
            return self.model.hidden(ids_BL)


class KeptSide(Side):
    """A baseline that runs once in a sweep: the loaded model keeps its hidden states.

    Hidden states take a few megabytes for each window, logits take hundreds. States beyond
    `KEPT_BYTES` are not kept and run again for the next recipe, with the same result.
    """

    def hidden(self, windows: Windows) -> Iterator[Tensor]:
        """Yield the hidden states `[L, H]` of each window."""
        loaded = self.model.loaded
        kept: dict[Hashable, Tensor] = loaded.cached("baseline hidden states", dict)
        for index, ids_L in enumerate(windows.ids):
            # Another attention kernel sums in another order and gives other states.
            key = (windows.ids_sha256, len(ids_L), index, loaded.attention)
            if key in kept:
                yield kept[key].to(loaded.device)
                continue
            states_LH = self._run(ids_L[None])[0]
            if sum(states.nbytes for states in kept.values()) + states_LH.nbytes <= KEPT_BYTES:
                kept[key] = states_LH.cpu()
            yield states_LH


def compare(candidate: Side, base: Side, windows: Windows, title: str) -> TokenPairs:
    """Return the statistics of every scored token, `[windows, L - 1]`.

    Raises:
        InvalidResult: A log-probability of either side is not finite.
    """
    found: list[TokenPairs] = []
    with bar(title, len(windows.ids)) as progress:
        states = zip(windows.ids, candidate.hidden(windows), base.hidden(windows), strict=True)
        for index, (ids_L, hidden_LH, base_LH) in enumerate(states):
            pairs = _compare_window(candidate, base, ids_L, hidden_LH, base_LH)
            check_finite(
                {
                    "the unquantized model": pairs.nll_baseline,
                    "the candidate": pairs.nll,
                    "one of the two models": pairs.kl,
                },
                f"in window {index} of {title}",
            )
            found.append(pairs)
            score = f"KL {np.mean([p.kl for p in found]):.3g} nat/token"
            progress.advance(tokens=len(ids_L), score=score)
    return TokenPairs.stack(found)


def _compare_window(
    candidate: Side, base: Side, ids_L: Tensor, hidden_LH: Tensor, base_LH: Tensor
) -> TokenPairs:
    """Return the statistics `[L - 1]` of one window, from logits made a chunk at a time."""
    model = candidate.model
    # The hidden state of a position predicts the next token; the last position predicts none.
    rows = hidden_LH[:-1], base_LH[:-1], ids_L[1:].to(model.loaded.device)
    chunks = [
        compare_logits(candidate.logits(hidden_q), base.logits(hidden_p), targets)
        for hidden_q, hidden_p, targets in zip(*map(model.chunks, rows), strict=True)
    ]
    return TokenPairs(*(np.concatenate(parts) for parts in zip(*chunks, strict=True)))


def check_finite(values: Mapping[str, Array], where: str) -> None:
    """Check that all log-probabilities are finite.

    Args:
        values: The model that made them -> log-probabilities, or divergences made of them.
        where: Where they were made, such as `in window 3 of divergence`.

    Raises:
        InvalidResult: Some are not; the message names the first model that made one.
    """
    for source, array in values.items():
        bad = array[~np.isfinite(array)]
        if bad.size:
            raise InvalidResult(
                f"every log-probability must be finite, got {bad[0]} from {source} {where}, "
                f"and {bad.size} such values in all; the weights are damaged, the recipe destroys "
                "this model, or a kernel is wrong"
            )


def window_sums(pairs: TokenPairs) -> dict[str, Array]:
    """Return the sums over the tokens of each window: name of the score -> `[windows]`."""
    columns = {
        "nll": pairs.nll,
        "nll_baseline": pairs.nll_baseline,
        "kl": pairs.kl,
        "same_top": pairs.same_top,
        "delta_p": pairs.delta_p,
        "delta_p_squared": pairs.delta_p**2,
    }
    return {name: values.sum(axis=1) for name, values in columns.items()}


def window_samples(
    text_name: str, nll_NT: Array, documents_NT: DocumentIds, scores: Mapping[str, Array]
) -> tuple[SampleScore, ...]:
    """Return one sample for each window.

    Args:
        text_name: Name of the text, with which the id of a sample begins.
        nll_NT: -ln p of each scored token [nat].
        documents_NT: The document of each scored token.
        scores: Name -> one number for each window.
    """
    return tuple(
        SampleScore(
            id=f"{text_name}/window/{index}",
            cluster=document_words(documents_T),
            scores={"num_tokens": len(nll_T)}
            | {name: float(values[index]) for name, values in scores.items()},
            token_nll=tuple(nll_T.tolist()),
            token_document=tuple(documents_T.tolist()),
        )
        for index, (nll_T, documents_T) in enumerate(zip(nll_NT, documents_NT, strict=True))
    )


def pair_warnings(pairs: TokenPairs, windows_NL: Tensor) -> tuple[str, ...]:
    """Return warnings about NLLs that mean nothing, of either model; see `text_warnings`."""
    targets = windows_NL[:, 1:].numpy()
    sides = (pairs.nll, "the model"), (pairs.nll_baseline, "the unquantized model")
    found = (text_warnings(nll, targets, whose) for nll, whose in sides)
    return tuple(dict.fromkeys(warning for warnings in found for warning in warnings))
