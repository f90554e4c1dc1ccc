"""Ask two engines about the same tokens, and turn the statistics into samples and warnings."""

from collections.abc import Mapping, Sequence

import numpy as np

from harness.data.source import Text
from harness.data.token_hash import hash_token_ids
from harness.display.progress import bar
from harness.engines.base import Engine
from harness.engines.requests import Array, Compared, Score
from harness.errors import InvalidResult, ModelError
from harness.results.record import SampleScore
from harness.tasks.degenerate import text_warnings
from harness.tasks.windows import DocumentIds, Ids, check_length, document_words


def check_text(engine: Engine, baseline: Engine, text: Text, window: int) -> None:
    """Check that two engines can be asked the same tokens.

    Raises:
        ModelError: Their tokenizers give different ids for the text.
        DataError: A window is longer than the baseline was made for, or a token of the text has no
            row in the embedding.
    """
    if baseline.tokenizer is engine.tokenizer:
        return
    if _ids_sha256(baseline, text) != _ids_sha256(engine, text):
        raise ModelError(
            "model.baseline must have the tokenizer of the model to be compared token by "
            f"token, but {baseline.name} gives other token ids than {engine.name} for the "
            f"text {text.name}; name the unquantized model it was made of"
        )
    check_length(window, baseline)


def _ids_sha256(engine: Engine, text: Text) -> str:
    tokenizer = engine.tokenizer
    return tokenizer.cached(
        ("hash of token ids", text.sha256),
        lambda: hash_token_ids([tokenizer.encode(text.text).ids]),
    )


def compare(engine: Engine, baseline: Engine, requests: Sequence[Score], title: str) -> Compared:
    """Return the statistics `[requests, T]` of requests with T scored tokens each.

    Args:
        engine: The candidate.
        baseline: The engine that the candidate is compared with.
        requests: A request for each window.
        title: What is compared, for the progress bar and for messages.

    Raises:
        UnsupportedEngine: The engines cannot be compared.
        InvalidResult: A log-probability of either side is not finite.
    """
    found: dict[int, Compared] = {}
    with bar(title, len(requests)) as progress:
        for index, pairs in engine.compare(baseline, requests):
            check_finite(
                {
                    "the unquantized model": pairs.nll_baseline,
                    "the candidate": pairs.nll,
                    "one of the two models": pairs.kl,
                },
                f"in window {index} of {title}",
            )
            found[index] = pairs
            score = f"KL {np.mean([p.kl for p in found.values()]):.3g} nat/token"
            tokens = len(requests[index].context) + len(requests[index].continuation)
            progress.advance(tokens=tokens, score=score)
    return Compared.stack([found[index] for index in range(len(requests))])


def check_finite(values: Mapping[str, Array], where: str) -> None:
    """Check that all log-probabilities are finite.

    Args:
        values: Words for a model -> its log-probabilities, or divergences computed from them.
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


def window_sums(pairs: Compared) -> dict[str, Array]:
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
    text_name: str,
    nll_NT: Array,
    documents_NT: DocumentIds,
    scores: Mapping[str, Array],
    kl_NT: Array | None = None,
) -> tuple[SampleScore, ...]:
    """Return one sample for each window.

    Args:
        text_name: Name of the text, with which the id of a sample begins.
        nll_NT: -ln p of each scored token [nat].
        documents_NT: The document of each scored token.
        scores: Name -> one number for each window.
        kl_NT: KL divergence at each scored token [nat], to be kept beside their sums.
    """
    return tuple(
        SampleScore(
            id=f"{text_name}/window/{index}",
            cluster=document_words(documents_T),
            scores={"num_tokens": len(nll_T)}
            | {name: float(values[index]) for name, values in scores.items()},
            token_nll=tuple(nll_T.tolist()),
            token_kl=None if kl_NT is None else tuple(kl_NT[index].tolist()),
            token_document=tuple(documents_T.tolist()),
        )
        for index, (nll_T, documents_T) in enumerate(zip(nll_NT, documents_NT, strict=True))
    )


def pair_warnings(pairs: Compared, windows_NL: Ids) -> tuple[str, ...]:
    """Return the `text_warnings` of both models about windows of token ids `[N, L]`."""
    targets = windows_NL[:, 1:]
    sides = (pairs.nll, "the model"), (pairs.nll_baseline, "the unquantized model")
    found = (text_warnings(nll, targets, whose) for nll, whose in sides)
    return tuple(dict.fromkeys(warning for warnings in found for warning in warnings))
