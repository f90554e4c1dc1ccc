"""How often a 95 % interval holds the truth, for texts whose tokens are not independent.

    python scripts/simulate_coverage.py [STUDIES]          2,000 by default; a minute on one core

A study draws a text with mean 0, of documents as long as WikiText's articles, in chunks of 64
tokens: an effect of each document, an autocorrelated drift along it, and noise of each token. Each
cell of the table is the share of studies in which an interval holds 0, in percent, and must be 95:

    windows   Student's t over windows of 2,048 tokens
    CR1       statsmodels' cluster-robust error with t(G - 1)
    CR2       Bell & McCaffrey's error with their degrees of freedom for independent tokens
              (Imbens & Kolesar 2016)
    ours      `harness.stats`: delete-one-document jackknife with t(G* - 1), where G* is the
              effective number of documents

The binomial standard error of 2,000 studies is 0.5 points. `-` is a text whose effective number of
documents is too small for an interval of ours.
"""

import sys
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pandas as pd
from scipy import signal
from scipy import stats as scipy_stats

from harness import stats

Array: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]

ARTICLES = (
    1459, 5526, 3135, 9679, 2660, 3007, 12595, 3103, 13515, 1991, 3499, 10718, 1222, 2726, 652,
    2319,
    9129, 1327, 4597, 4429, 5241, 1688, 4883, 13771, 2935, 8469, 14102, 1531, 36, 295, 5302, 1954,
    7366, 2034, 10966, 8952, 1866, 16774, 4988, 11561, 13274, 2940, 1347, 6170, 2847, 1429, 1545,
    8749,
    1727, 1849, 3440, 3430, 1334, 1303, 1255, 1215, 8167, 627, 4424, 6730, 4940, 4242,
)  # fmt: skip
"""Lengths of the 62 articles of WikiText-2's test split in SmolLM2's tokens."""
CHUNK, WINDOW = 64, 2048
TEXTS: Mapping[str, tuple[int, ...]] = {
    "5 of equal length": (4096,) * 5,
    "8 of equal length": (4096,) * 8,
    "first 5 articles": ARTICLES[:5],
    "first 8 articles": ARTICLES[:8],
    "first 10 articles": ARTICLES[:10],
    "first 12 articles": ARTICLES[:12],
    "40 windows, 17 articles": (*ARTICLES[:16], 4114),
    "all, 62 articles": ARTICLES,
}


class Effects(NamedTuple):
    """Standard deviations of what a chunk's mean is made of."""

    document: float
    drift: float
    correlation: float
    """Of the drift, from a chunk to the next one."""
    noise: float
    skewness: float = 0.0
    """Of the documents' effects, which are then gamma-distributed."""


EFFECTS: Mapping[str, Effects] = {
    "level of a perplexity": Effects(0.3, 0.2, 0.9, 0.375),
    "difference, windows correlate little": Effects(0.03, 0.1, 0.8, 0.375),
    "difference, windows correlate much": Effects(0.3, 0.1, 0.9, 0.1),
    "drift alone": Effects(0.0, 0.3, 0.97, 0.375),
    "skewed to the right (1)": Effects(0.3, 0.2, 0.9, 0.375, 1.0),
    "skewed to the left (-1)": Effects(0.3, 0.2, 0.9, 0.375, -1.0),
    "as skewed as an exponential (2)": Effects(0.3, 0.2, 0.9, 0.375, 2.0),
}


class Studies(NamedTuple):
    """Many simulated texts."""

    windows: Array
    """Means of windows, `[studies, windows]`."""
    sums: Array
    """Sums of documents, `[studies, documents]`."""
    counts: Array
    """Their lengths."""


def simulate(lengths: tuple[int, ...], effects: Effects, num: int, seed: int) -> Studies:
    """Draw texts of documents of these lengths [token]."""
    rng = np.random.default_rng(seed)
    chunks = [max(1, round(length / CHUNK)) for length in lengths]
    shown = effects.document * _unit(rng, (num, len(lengths)), effects.skewness)
    parts = []
    for place, size in enumerate(chunks):
        shocks = rng.standard_normal((num, size))
        # Stationary from the first chunk on.
        shocks[:, 1:] *= np.sqrt(1 - effects.correlation**2)
        drift = signal.lfilter([1], [1, -effects.correlation], shocks, axis=1)
        noise = rng.standard_normal((num, size))
        parts.append(shown[:, [place]] + effects.drift * drift + effects.noise * noise)
    text = np.concatenate(parts, axis=1)
    per_window = WINDOW // CHUNK
    whole = text.shape[1] // per_window
    windows = text[:, : whole * per_window].reshape(num, whole, per_window).mean(2)
    sums = np.stack([part.sum(1) for part in parts], axis=1)
    return Studies(windows, sums, np.asarray(chunks, np.float64))


def _unit(rng: np.random.Generator, shape: tuple[int, int], skewness: float) -> Array:
    """Return draws of mean 0 and variance 1."""
    if not skewness:
        return rng.standard_normal(shape)
    shape_of_gamma = 4 / skewness**2
    draws = rng.gamma(shape_of_gamma, size=shape)
    return np.sign(skewness) * (draws - shape_of_gamma) / np.sqrt(shape_of_gamma)


def over_windows(studies: Studies) -> Array:
    """Say which studies hold 0 in Student's t interval over windows."""
    num = studies.windows.shape[1]
    errors = studies.windows.std(axis=1, ddof=1) / np.sqrt(num)
    return np.asarray(np.abs(studies.windows.mean(axis=1)) <= _t(num - 1) * errors)


def cr1(studies: Studies) -> Array:
    """Say which hold it with the error of statsmodels' `cov_type="cluster"`."""
    mean, residuals = _residuals(studies)
    num = len(studies.counts)
    errors = np.sqrt(num / (num - 1) * (residuals**2).sum(1)) / studies.counts.sum()
    return np.asarray(np.abs(mean) <= _t(num - 1) * errors)


def cr2(studies: Studies) -> Array:
    """Say which hold it with Bell & McCaffrey's error and degrees of freedom."""
    mean, residuals = _residuals(studies)
    shares = studies.counts / studies.counts.sum()
    errors = np.sqrt((residuals**2 / (1 - shares)).sum(1)) / studies.counts.sum()
    # The error is a quadratic form of the tokens. Its degrees of freedom by Satterthwaite are
    # tr(M)^2 / tr(M^2).
    to_residuals = np.eye(len(shares)) - np.outer(shares, np.ones(len(shares)))
    scaled = to_residuals / np.sqrt(1 - shares)[:, None]
    form = scaled @ np.diag(studies.counts) @ scaled.T
    return np.asarray(np.abs(mean) <= _t(np.trace(form) ** 2 / (form**2).sum()) * errors)


def ours(studies: Studies) -> Array | None:
    """Say which hold it in the interval that the harness gives; None if it gives none."""
    found = [stats.Clusters(sums, studies.counts).interval() for sums in studies.sums]
    if None in found:
        return None
    return np.asarray([bounds.low <= 0 <= bounds.high for bounds in found if bounds])


def _residuals(studies: Studies) -> tuple[Array, Array]:
    mean = studies.sums.sum(1) / studies.counts.sum()
    return mean, studies.sums - mean[:, None] * studies.counts


def _t(freedom: float) -> float:
    return float(scipy_stats.t.ppf(0.975, freedom))


METHODS = {"windows": over_windows, "CR1": cr1, "CR2": cr2, "ours": ours}


def table(num: int) -> pd.DataFrame:
    """Return the coverage of every method for every text and effect [percent]."""
    rows = []
    for seed, (name, effects) in enumerate(EFFECTS.items()):
        for text, lengths in TEXTS.items():
            studies = simulate(lengths, effects, num, seed)
            row = {"effects": name, "documents": text}
            for method, holds in METHODS.items():
                held = holds(studies)
                row[method] = "-" if held is None else f"{100 * held.mean():.1f}"
            rows.append(row)
    return pd.DataFrame(rows)


def main() -> None:
    """Print the table."""
    num = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    sys.stdout.write(table(num).to_markdown(index=False, disable_numparse=True) + "\n")


if __name__ == "__main__":
    main()
