"""How often claims are false, intervals hold the truth, and differences are found.

    python scripts/simulate_claims.py [STUDIES] [--out FILE.json]    2,000 studies by default

A study compares 12 recipes with one baseline, on the same samples:

    answers   1,000 questions of MMLU's 57 subjects, of which 10 % flip
    text      the 62 articles of WikiText-2 in chunks of 64 tokens, autocorrelated within an article

`even` has no effects of subjects or articles; in `clustered` they shift the differences of a whole
subject or article, with mean 0, in part alike for all recipes. The table gives percents:

    false     studies without any difference in which some claim is made (Holm); at most 5
    covered   95 % intervals that hold the true difference; 95
    found     differences that are found, of the size that `quant-harness plan` promises 80 for
    within    recipes at the margin whose loss one test calls smaller; 5
    lossless  studies with every recipe at the margin in which some is called equivalent (Holm);
              at most 5

The binomial standard error of 2,000 studies is 0.5 points at 5 %, 0.9 at 80 %.
"""

import argparse
import json
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pandas as pd
from scipy import signal
from simulate_coverage import ARTICLES, CHUNK

from harness import stats
from harness.plan import assumed_flips, observed
from harness.stats.difference import ALPHA, Difference, of_answers, of_tokens
from harness.stats.families import holm

Array: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]
RECIPES = 12
SUBJECTS = np.repeat(np.arange(57), 18)[:1000]
FLIPS = 0.1
"""Share of the answers that flip."""
WORKERS = 2
SHARES = ("false", "covered", "found", "within", "lossless")


class Setting(NamedTuple):
    """What a study draws."""

    name: str
    draw: Callable[[np.random.Generator, float], Array]
    """Draws paired differences `[recipes, items]` whose mean is given."""
    measure: Callable[[Array], Difference]
    """Makes a difference of those of one recipe `[items]`."""
    size: float
    """A difference that a plan promises to find with a power of 80 %, one recipe alone."""


def answers(random: np.random.Generator, mean: float, *, spread: float) -> Array:
    """Draw flips: -1, 0 or 1 for each question; `spread` is the deviation of a subject's mean."""
    shared, own = random.normal(size=57), random.normal(size=(RECIPES, 57))
    subject = mean + spread * (0.7 * shared + np.sqrt(1 - 0.7**2) * own)[:, SUBJECTS]
    subject = np.clip(subject, -FLIPS, FLIPS)
    draws = random.random((RECIPES, len(SUBJECTS)))
    to_right = (FLIPS + subject) / 2
    return np.where(draws < to_right, 1.0, np.where(draws < FLIPS, -1.0, 0.0))


LENGTHS = np.array([max(1, round(tokens / CHUNK)) for tokens in ARTICLES])
DOCUMENTS = np.repeat(np.arange(len(ARTICLES)), LENGTHS)
CORRELATION = 0.8
"""Correlation of a chunk's noise with that of the chunk before it in the article."""
APART = 30
"""Chunks that are drawn between two articles and thrown away: 0.8 ** 30 is 0.1 %."""
KEPT = np.concatenate([[False] * APART + [True] * length for length in LENGTHS])


def text(random: np.random.Generator, mean: float, *, spread: float) -> Array:
    """Draw mean differences of chunks; `spread` is the deviation of an article's mean."""
    shared, own = random.normal(size=len(LENGTHS)), random.normal(size=(RECIPES, len(LENGTHS)))
    article = spread * (0.7 * shared + np.sqrt(1 - 0.7**2) * own)[:, DOCUMENTS]
    noise = random.normal(size=(RECIPES, len(KEPT)))
    drift = signal.lfilter([1.0], [1.0, -CORRELATION], noise, axis=1)[:, KEPT]
    return mean + article + 0.03 * np.sqrt(1 - CORRELATION**2) * drift


def measure_answers(values: Array) -> Difference:
    """Return the difference of one recipe's answers."""
    return of_answers(values, stats.clustered(values, SUBJECTS))


def measure_text(values: Array) -> Difference:
    """Return the difference of one recipe's log-losses; a chunk counts as one token."""
    return of_tokens(stats.clustered(values, DOCUMENTS))


def settings() -> list[Setting]:
    """Return what is simulated."""
    found = []
    for name, draw, measure, spreads in (
        ("answers", answers, measure_answers, (0.0, 0.02)),
        ("text", text, measure_text, (0.0, 0.02)),
    ):
        for label, spread in zip(("even", "clustered"), spreads, strict=True):
            drawn = partial(draw, spread=spread)
            # Flips of independent answers are assumed; otherwise runs on file have the error.
            is_assumed = name == "answers" and not spread
            planned = assumed_flips(FLIPS, 57).visible(len(SUBJECTS)) if is_assumed else None
            size = planned or pilot(drawn, measure)
            found.append(Setting(f"{name}, {label}", drawn, measure, size))
    return found


def pilot(
    draw: Callable[[np.random.Generator, float], Array], measure: Callable[[Array], Difference]
) -> float:
    """Return the size that plans promise to find: the median over pilot studies."""
    pilots = [
        measure(row)
        for seed in range(20)
        for row in draw(np.random.default_rng(10_000 + seed), 0.0)
    ]
    expected = [(observed(each), each.num_items) for each in pilots]
    return float(np.median([each.visible(n) for each, n in expected if each is not None]))


def study(seed: int, index: int) -> tuple[bool, float, float, float, bool]:
    """Run one study; return what the columns of the table count."""
    setting = SETTINGS[index]
    random = np.random.default_rng([seed, index])
    same = [setting.measure(row) for row in setting.draw(random, 0.0)]
    false = min(holm([each.p for each in same if each.p is not None])) < ALPHA
    other = [setting.measure(row) for row in setting.draw(random, -setting.size)]
    covered = [
        each.interval.low <= truth <= each.interval.high
        for truth, group in ((0.0, same), (-setting.size, other))
        for each in group
        if each.interval is not None
    ]
    found = [each.p < ALPHA for each in other if each.p is not None]
    within = [p for each in other if (p := each.p_within(setting.size)) is not None]
    lossless = min(holm(within)) < ALPHA
    alone = np.mean([p < ALPHA for p in within])
    return false, float(np.mean(covered)), float(np.mean(found)), float(alone), lossless


SETTINGS = settings()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="How often claims are false.")
    parser.add_argument("studies", nargs="?", type=int, default=2000)
    parser.add_argument("--out", type=Path, help="file for the table as JSON")
    arguments = parser.parse_args()
    rows = []
    with ProcessPoolExecutor(WORKERS) as pool:
        for index, setting in enumerate(SETTINGS):
            run = partial(study, index=index)
            done = np.array(list(pool.map(run, range(arguments.studies), chunksize=50)), float)
            shares = dict(zip(SHARES, (100 * done.mean(0)).round(2).tolist(), strict=True))
            rows.append({"study": setting.name, "size": round(setting.size, 5), **shares})
            sys.stderr.write(f"{rows[-1]}\n")
    table = pd.DataFrame(rows)
    sys.stdout.write(table.to_string(index=False, float_format="%.3g") + "\n")
    if arguments.out:
        found = {"studies": arguments.studies, "recipes": RECIPES, "rows": rows}
        arguments.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
