"""What is said of a real model beside the fake-quantized one: differences, a verdict by the backend's tolerance, items."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from harness.errors import InvalidResult
from harness.results.record import Compute, Metric, SampleScore, Unit
from harness.tasks.divergence.statistics import Array, TokenPairs, mean_metric
from harness.tasks.parity.layers import LayerDifference
from harness.tasks.windows import DocumentIds, document_words


class Beside(NamedTuple):
    """Statistics of all scored tokens, each `[windows, L - 1]`."""

    real_to_fake: TokenPairs
    """The real model; its baseline is the fake-quantized one."""
    fake_to_float: TokenPairs
    real_to_float: TokenPairs

    @property
    def difference(self) -> Array:
        """|ln p_real - ln p_fake| of the token that follows [nat]."""
        return np.abs(self.real_to_fake.nll - self.real_to_fake.nll_baseline)


def stack(windows: Sequence[tuple[TokenPairs, ...]]) -> Beside:
    """Return the statistics of windows together, each given in the order of `Beside`.

    Raises:
        InvalidResult: A log-probability of some model is not finite.
    """
    by_pair = zip(*windows, strict=True)
    beside = Beside(
        *(
            TokenPairs(*(np.stack(x) for x in zip(*of_windows, strict=True)))
            for of_windows in by_pair
        )
    )
    _check_finite(beside)
    return beside


def _check_finite(beside: Beside) -> None:
    """Name the first model that makes log-probabilities which are no numbers."""
    real, fake = beside.real_to_fake, beside.fake_to_float
    found = {
        "float": (fake.nll_baseline,),
        "fake-quantized": (fake.nll, fake.kl),
        "real": (real.nll, real.kl, beside.real_to_float.kl),
    }
    for which, arrays in found.items():
        values = np.stack(arrays)
        if bad := int((~np.isfinite(values)).sum()):
            raise InvalidResult(
                f"every log-probability must be finite, got {values[~np.isfinite(values)][0]} from the {which} model, and "
                f"{bad} such values in all; the weights are damaged, the recipe destroys this model, or a kernel is wrong"
            )


def parity_metrics(beside: Beside, clusters: DocumentIds, cluster: str) -> tuple[Metric, ...]:
    """Return how far real and fake are apart, and each from the float model.

    Args:
        beside: Statistics of tokens `[windows, L - 1]`.
        clusters: What is independent, for each of these tokens: its document, or its window of random tokens.
        cluster: What a cluster is, such as `document`.
    """
    difference, nat = beside.difference, Unit.NAT_PER_TOKEN
    of_tokens = partial(mean_metric, clusters=clusters, items=("token", cluster))
    mean = partial(of_tokens, unit=nat, better=False, finish=_positive)
    largest = Metric(
        name="logprob_difference_max",
        value=float(difference.max()),
        unit=nat,
        n=difference.size,
        n_of="token",
        higher_is_better=False,
        note="no interval: the largest of these tokens",
    )
    same_top, fraction = beside.real_to_fake.same_top, Unit.FRACTION
    return (
        mean("logprob_difference", difference),
        largest,
        mean("kl", beside.real_to_fake.kl),
        of_tokens("top1_agreement", same_top, unit=fraction, better=True, finish=_fraction),
        mean("float_kl_fake", beside.fake_to_float.kl),
        mean("float_kl_real", beside.real_to_float.kl),
    )


def _positive(value: float) -> float:
    return max(value, 0.0)


def _fraction(value: float) -> float:
    return min(max(value, 0.0), 1.0)


def verdict(
    differences: Sequence[LayerDifference],
    dtype: str,
    tolerance: float | None,
    compute: Compute | None = None,
) -> tuple[tuple[Metric, Metric], list[str]]:
    """Say how far the worst layer is from its fake form, and whether the backend calls that equal.

    Returns:
        Both as metrics, and a warning if it is not.
    """
    worst = max(differences, key=lambda difference: difference.value)
    shown = f"{worst.layer} differs by {worst.value:.3g} ({worst.part})"
    within, failure = None, []
    note = f"the backend states no tolerance in {dtype}: {shown}"
    if tolerance is not None:
        within = worst.value <= tolerance
        side = "within" if within else "above"
        note = f"{side} {tolerance:.3g}, the backend's tolerance in {dtype}: {shown}"
    if compute is not None:
        note += f"; its products are {compute.words} on this processor"
    if within is False:
        failure = [
            f"real is not fake: the relative difference of a layer's output is {note}; what the fake-quantized model says "
            "of accuracy does not hold here"
        ]
    of_layers = partial(
        Metric, unit=Unit.ONE, n=len({found.layer for found in differences}), n_of="layer"
    )
    largest = of_layers(
        name="layer_difference",
        value=worst.value,
        higher_is_better=False,
        note=f"the largest of all quantized layers, on the same input: {shown}; no interval",
    )
    judged = of_layers(
        name="within_tolerance",
        value=None if within is None else float(within),
        higher_is_better=True,
        note=note,
    )
    return (largest, judged), failure


def window_samples(
    name: str, beside: Beside, clusters: DocumentIds, decode: int
) -> tuple[SampleScore, ...]:
    """Return an item for each window: sums over its tokens, and the real model's NLL of each token."""
    columns = {
        "difference": beside.difference,
        "difference_decode": beside.difference[:, -decode:] if decode else None,
        "kl": beside.real_to_fake.kl,
        "same_top": beside.real_to_fake.same_top,
        "float_kl_fake": beside.fake_to_float.kl,
        "float_kl_real": beside.real_to_float.kl,
    }
    sums = {key: values.sum(axis=1) for key, values in columns.items() if values is not None}
    sums["difference_max"] = beside.difference.max(axis=1)
    return tuple(
        SampleScore(
            id=f"{name}/window/{index}",
            cluster=document_words(clusters[index]),
            scores={"num_tokens": len(nll_T)}
            | {key: float(values[index]) for key, values in sums.items()},
            token_nll=tuple(nll_T.tolist()),
            token_document=tuple(clusters[index].tolist()),
        )
        for index, nll_T in enumerate(beside.real_to_fake.nll)
    )
