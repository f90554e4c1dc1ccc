"""Statistics of three models on the same tokens: real, fake-quantized and unquantized."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple, Self

import numpy as np

from harness.engines.paired import KeptDistributions, LayerDifference
from harness.engines.requests import Array, Compared
from harness.results.record import Compute, Metric, SampleScore, Unit
from harness.tasks.divergence.compare import check_finite, window_samples
from harness.tasks.divergence.statistics import fraction, mean_metric, nonnegative
from harness.tasks.windows import DocumentIds


class Beside(NamedTuple):
    """Statistics of all scored tokens, each `[windows, L - 1]`; the second name is the baseline."""

    real_to_fake: Compared
    fake_to_float: Compared
    real_to_float: Compared

    @classmethod
    def of(
        cls, real: KeptDistributions, fake: KeptDistributions, unquantized: KeptDistributions
    ) -> Self:
        """Return the statistics `[L - 1]` of one window."""
        return cls(real.compare(fake), fake.compare(unquantized), real.compare(unquantized))

    @classmethod
    def stack(cls, windows: Sequence["Beside"]) -> Self:
        """Return the statistics `[windows, L - 1]` of windows of `[L - 1]` each.

        Raises:
            InvalidResult: A log-probability of some model is not finite.
        """
        beside = cls(*map(Compared.stack, zip(*windows, strict=True)))
        to_fake, to_float = beside.real_to_fake, beside.fake_to_float
        check_finite(
            {
                "the unquantized model": to_float.nll_baseline,
                "the fake-quantized model": np.stack([to_float.nll, to_float.kl]),
                "the real model": np.stack([to_fake.nll, to_fake.kl, beside.real_to_float.kl]),
            },
            "in parity",
        )
        return beside

    @property
    def difference(self) -> Array:
        """|ln p_real - ln p_fake| of the token that follows [nat]."""
        return np.abs(self.real_to_fake.nll - self.real_to_fake.nll_baseline)


def parity_metrics(beside: Beside, clusters: DocumentIds, cluster: str) -> tuple[Metric, ...]:
    """Return the differences between real and fake, and of each from the unquantized model.

    Args:
        beside: Statistics of tokens `[windows, L - 1]`.
        clusters: The independent unit of each token: its document, or its window.
        cluster: The word for a cluster, such as `document`.
    """
    difference, nat = beside.difference, Unit.NAT_PER_TOKEN
    of_tokens = partial(mean_metric, clusters=clusters, items=("token", cluster))
    mean = partial(of_tokens, unit=nat, better=False, finish=nonnegative)
    largest = Metric(
        name="logprob_difference_max",
        value=float(difference.max()),
        unit=nat,
        n=difference.size,
        n_of="token",
        higher_is_better=False,
        note="no interval: the largest of these tokens",
    )
    same_top = beside.real_to_fake.same_top
    return (
        mean("logprob_difference", difference),
        largest,
        mean("kl", beside.real_to_fake.kl),
        of_tokens("top1_agreement", same_top, unit=Unit.FRACTION, better=True, finish=fraction),
        mean("float_kl_fake", beside.fake_to_float.kl),
        mean("float_kl_real", beside.real_to_float.kl),
    )


def verdict(
    differences: Sequence[LayerDifference],
    dtype: str,
    tolerance: float | None,
    compute: Compute | None = None,
) -> tuple[tuple[Metric, Metric], list[str]]:
    """Compare the layer with the largest difference with the backend's tolerance.

    Returns:
        The difference and the verdict as metrics, and a warning if the verdict is no.
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
        note += f"; its matmuls are {compute.words} on this processor"
    if within is False:
        failure = [
            f"real is not fake: the relative difference of a layer's output is {note}; "
            "the accuracy of the fake-quantized model does not hold for this backend"
        ]
    of_layers = partial(
        Metric, unit=Unit.ONE, n=len({found.layer for found in differences}), n_of="layer"
    )
    largest = of_layers(
        name="layer_difference",
        value=worst.value,
        higher_is_better=False,
        note=f"the largest of all quantized layers, on the same activations: {shown}; no interval",
    )
    judged = of_layers(
        name="within_tolerance",
        value=None if within is None else float(within),
        higher_is_better=True,
        note=note,
    )
    return (largest, judged), failure


def parity_samples(
    text_name: str, beside: Beside, clusters: DocumentIds, decode: int
) -> tuple[SampleScore, ...]:
    """Return one sample for each window: sums over its tokens, and the real model's NLLs."""
    difference = beside.difference
    columns = {
        "difference": difference,
        **({"difference_decode": difference[:, -decode:]} if decode else {}),
        "kl": beside.real_to_fake.kl,
        "same_top": beside.real_to_fake.same_top,
        "float_kl_fake": beside.fake_to_float.kl,
        "float_kl_real": beside.real_to_float.kl,
    }
    scores = {name: values.sum(axis=1) for name, values in columns.items()}
    scores["difference_max"] = difference.max(axis=1)
    return window_samples(text_name, beside.real_to_fake.nll, clusters, scores)
