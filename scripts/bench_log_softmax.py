"""How exact and how fast token NLLs are: torch's float32 loss beside `token_nll` of this project.

    python scripts/bench_log_softmax.py --out results/published/bench_log_softmax/smollm2.json

SmolLM2-135M in float32 reads the first window of WikiText-2's test split. Both losses are compared
with torch's log-softmax of the same float32 logits in float64, whose tensor takes 800 MB. All run
on one thread, in alternating rounds; times are medians.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.data.hub import HubData
from harness.engines.local.log_softmax import token_nll
from harness.engines.local.split_model import split
from harness.machine import provenance
from harness.models.sources.embedded import EmbeddedModel
from harness.output.atomic import write_atomic
from harness.tasks.windows import disjoint_windows

WINDOW = 2048


def errors(nll: Tensor, exact: Tensor) -> dict[str, float]:
    """Return mean and largest difference from exact token NLLs [nat].

    The mean is the relative error of a perplexity.
    """
    difference = nll.double() - exact
    return {"mean": float(difference.mean()), "largest": float(difference.abs().max())}


def alternating(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the median time of each way over alternating rounds [s]; a first round warms up."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            times[name].append(time.perf_counter() - began)
    return {name: median(each[1:]) for name, each in times.items()}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    loaded = EmbeddedModel(dtype="float32").load(torch.device("cpu"))
    ids_1L = disjoint_windows(HubData().text(), loaded, WINDOW, 1).ids
    with split(loaded) as model:
        seconds = alternating({"logits": lambda: model.logits(model.hidden(ids_1L))}, 1)
        logits_NV = model.logits(model.hidden(ids_1L))[0, :-1]
    targets_N = ids_1L[0, 1:]
    losses: dict[str, Callable[[], Tensor]] = {
        "float32 loss": lambda: F.cross_entropy(logits_NV, targets_N, reduction="none"),
        "here": lambda: token_nll(logits_NV, targets_N),
    }
    exact = -logits_NV.double().log_softmax(-1).gather(1, targets_N[:, None])[:, 0]
    found = {name: errors(loss(), exact) for name, loss in losses.items()}
    seconds |= alternating(losses, arguments.rounds)
    made = provenance.collect({}, torch.device("cpu")).model_dump(mode="json")
    result = {"window": WINDOW, "error_nat": found, "seconds": seconds, "provenance": made}
    text = json.dumps(result, indent=1) + "\n"
    print(text)
    if arguments.out:
        write_atomic(arguments.out, text.encode(), "--out", force=True)


if __name__ == "__main__":
    main()
