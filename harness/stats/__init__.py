"""Statistics of runs and of differences between runs, by scipy and statsmodels; no torch.

`estimate` is an estimate with its error. `clusters` estimates a mean over tokens of documents, and
`proportions` one of right answers. `difference` says what two runs over the same samples differ by.
`seeds` adds the error of calibration seeds to a difference. `rounds` tests times of two models.
`families` corrects for how many differences were tested.
"""

from harness.stats.clusters import MIN_CLUSTERS, Clusters, clustered, mean_interval, root, summed
from harness.stats.estimate import CONFIDENCE, Estimate, Interval, t_interval
from harness.stats.proportions import flips_interval, macro_interval, mcnemar, wilson

__all__ = [
    "CONFIDENCE",
    "MIN_CLUSTERS",
    "Clusters",
    "Estimate",
    "Interval",
    "clustered",
    "flips_interval",
    "macro_interval",
    "mcnemar",
    "mean_interval",
    "root",
    "summed",
    "t_interval",
    "wilson",
]
