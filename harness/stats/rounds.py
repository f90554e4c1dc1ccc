"""Times of two models in the same rounds: is one of them faster?"""

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

MOST_DRIFT = 0.03
"""A run is unstable if the time of its baseline changes by a larger share between the first rounds
and the last."""


def signed_rank(baseline_s: ArrayLike, candidate_s: ArrayLike) -> float:
    """Return the two-sided p-value of "both are equally fast", by Wilcoxon's signed ranks (1945).

    The ranks are those of the rounds' log-ratios. It assumes that rounds are independent, and that
    equally fast models could change places within a round; so a disturbance of a whole round, or a
    drift that both share, does not matter. Up to 50 rounds without ties the p-value is exact, and
    not below `least_p`.

    Args:
        baseline_s: Time of each round [s].
        candidate_s: Times of another model in the same rounds [s].
    """
    ratios = np.log(
        np.asarray(baseline_s, dtype=np.float64) / np.asarray(candidate_s, dtype=np.float64)
    )
    # Half of a tie counts for either side: rounds without any difference give 1.
    return float(stats.wilcoxon(ratios, zero_method="zsplit").pvalue)


def least_p(rounds: int) -> float:
    """Return the p-value of rounds in which one model is always faster: the smallest possible."""
    return 2.0 ** (1 - rounds)
