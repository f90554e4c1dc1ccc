"""The figures of shorter windows that a pass has in it."""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from harness.data.embedded import EmbeddedData
from harness.engines.local.engine import LocalEngine
from harness.models.loaded import LoadedModel
from harness.results.record import Metric
from harness.tasks.perplexity.disjoint_windows import DisjointWindows
from harness.tasks.perplexity.perplexity import Perplexity


def further(window: int, count: int = 12) -> dict[str, Metric]:
    random = np.random.default_rng(0).random((count, window - 1), dtype=np.float32)
    documents = [np.full(window - 1, index) for index in range(count)]
    return {metric.name: metric for metric in DisjointWindows().further(list(random), documents)}


@pytest.mark.parametrize(
    ("window", "sizes"),
    [(64, []), (512, []), (513, [512]), (2048, [512, 1024]), (4097, [512, 1024, 2048, 4096])],
)
def test_usual_windows_that_are_shorter_are_given(window: int, sizes: list[int]) -> None:
    assert list(further(window)) == [f"perplexity/first_{size}" for size in sizes]


def test_figure_is_over_the_first_tokens_of_every_window() -> None:
    random = np.random.default_rng(0).random((12, 2047), dtype=np.float32)
    metric = further(2048)["perplexity/first_512"]
    assert metric.value == pytest.approx(math.exp(random[:, :511].mean(dtype=np.float64)))
    assert metric.n == 12 * 511
    assert metric.ci95[0] < metric.value < metric.ci95[1]
    assert "first 512 tokens of every window of 2048" in metric.note


def test_figure_equals_that_of_a_text_of_these_windows(tiny: LoadedModel) -> None:
    plain = EmbeddedData().text()
    content = plain.text.encode("ascii", "ignore").decode().translate(dict.fromkeys(b"ABCD", "x"))
    cut = "".join(content[start : start + 512] for start in range(0, 2400, 600))

    def run(content: str, window: int) -> dict[str, Any]:
        text = type(plain)(name="t", text=content, sha256=f"{window}", num_rows=1)
        task = Perplexity(data=SimpleNamespace(text=lambda: text), window=window)
        return {metric.name: metric for metric in task.run(LocalEngine(tiny)).metrics}

    long, short = run(content[:2400], 600), run(cut, 512)
    assert long["perplexity/first_512"].n == short["perplexity"].n == 4 * 511
    assert long["perplexity/first_512"].value == pytest.approx(short["perplexity"].value, rel=1e-5)
