"""The answer: 15 short lines that say which recipes are worse, which are not, and what is missing."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from filed import file_with_samples

from harness.claims import answer as answered_of
from harness.claims.grouping import comparable
from harness.claims.margins import read_margins
from harness.claims.recommendation import recommendations
from harness.claims.suspects import suspects
from harness.report.sections.answer import (
    MOST_LINES,
    NO_MARGIN,
    NOTHING,
    WIDTH,
    answer_lines,
    listed,
)
from harness.results.record import RunRecord, SampleScore
from harness.results.store import ResultStore

MakeRecord = Callable[..., RunRecord]
BASE = np.random.default_rng(0).normal(3.0, 0.4, 12)
NOISE = np.random.default_rng(1).normal(0.0, 0.002, 12)


class Folder:
    """Perplexities of one model, over 12 documents of 10 tokens."""

    def __init__(self, make: MakeRecord, root: Path) -> None:
        self.make, self.root = make, root

    def file(self, recipe: str, loss: float, bits: float = 8.0, seed: int = 42) -> None:
        nll = BASE + (loss + NOISE - NOISE.mean() if recipe != "none" else 0.0)
        value = float(np.exp(nll.mean()))
        record = self.make(recipe, value, "perplexity", bits=bits, seed=seed)
        headline = record.metrics[0].model_copy(update={"n": 120})
        samples = [
            SampleScore(
                id=f"{index:02d}",
                cluster=str(index),
                scores={"nll": each * 10, "num_tokens": 10},
                token_nll=(each,) * 10,
                token_document=(index,) * 10,
            )
            for index, each in enumerate(nll.tolist())
        ]
        file_with_samples(self.root, record.model_copy(update={"metrics": (headline,)}), samples)

    def lines(self, margin: str = "", problems: tuple[str, ...] = ()) -> list[str]:
        stored, _ = ResultStore(root=self.root).load()
        answered = answered_of(comparable(stored), read_margins(margin))
        return answer_lines(answered, suspects(answered), problems)


@pytest.fixture
def folder(make_record: MakeRecord, tmp_path: Path) -> Folder:
    return Folder(make_record, tmp_path / "results")


def test_it_says_what_was_measured_what_is_worse_and_what_could_not_be_told(folder: Folder) -> None:
    folder.file("none", 0.0)
    folder.file("int8", 0.0)
    folder.file("int4", 0.1, bits=4.5)
    first, *rest = folder.lines()
    assert first == "perplexity of m (questions), 120 tokens; 2 recipes against the baseline:"
    # e^0.1 - 1 = 10.5 %.
    assert any(line.startswith("- Worse (%): int4 +10.5 [+10") for line in rest)
    assert any(line.startswith("- Not distinguishable (%): int8 ") for line in rest)
    assert any(line.startswith("- To tell: ") for line in rest)
    assert NO_MARGIN in rest


def test_the_smallest_equivalent_recipe_of_each_size_is_recommended(folder: Folder) -> None:
    folder.file("none", 0.0, bits=32.0)
    folder.file("int8_row", 0.001, bits=8.05)
    folder.file("int8_g64", 0.0005, bits=8.5)
    folder.file("int4", 0.1, bits=4.5)
    lines = folder.lines("perplexity=1%")
    assert lines[-1] == "Recommended within the margin: 8 bits: int8_row; 4 bits: none."
    assert any(line.startswith("- Equivalent within 1 % of the perplexity") for line in lines)
    # 0.1 is far above what this margin allows, and 0.2 below it.
    assert folder.lines("perplexity=30%")[-1].endswith("8 bits: int8_row; 4 bits: int4.")


def test_a_suspect_recipe_is_not_recommended(folder: Folder) -> None:
    folder.file("none", 0.0, bits=32.0)
    folder.file("int8_row", 0.001, bits=8.05)
    folder.file("int8_g64", 0.0005, bits=8.5)
    stored, _ = ResultStore(root=folder.root).load()
    answered = answered_of(comparable(stored), read_margins("perplexity=1%"))
    suspect = [row for row in answered[0].group.rows if row.label == "int8_row"]
    (found,) = recommendations(answered, suspect)
    assert found.row is not None
    assert found.row.label == "int8_g64"


def test_it_is_short_however_much_was_measured(folder: Folder) -> None:
    for seed in range(16):
        folder.file("none", 0.0, seed=seed)
        for number in range(3):
            folder.file(f"recipe_{'x' * 300 * number}{number}", 0.1 * number, seed=seed)
    lines = folder.lines(problems=("a", "b"))
    assert len(lines) <= MOST_LINES
    assert any(line.endswith("further groups of runs in the tables.") for line in lines)
    assert any(line.startswith("The report lacks 2 files") for line in lines)


def test_without_comparisons_it_says_so(folder: Folder) -> None:
    assert answer_lines([], []) == [NOTHING]
    folder.file("none", 0.0)
    assert folder.lines() == [
        "perplexity of m (questions), 120 tokens: no recipe, only the baseline."
    ]


def test_a_list_that_is_cut_has_its_first_items_and_its_last() -> None:
    items = [f"recipe_{number} +{number}.00 [+0.12, +3.45]" for number in range(40)]
    assert listed("- Worse", items[:2], 1) == [
        "- Worse: recipe_0 +0.00 [+0.12, +3.45]; recipe_1 +1.00 [+0.12, +3.45]."
    ]
    (line,) = listed("- Worse", items, 1)
    assert line.startswith("- Worse: recipe_0 ")
    assert line.endswith(" more, up to recipe_39 +39.00 [+0.12, +3.45].")
    assert len(line) <= WIDTH
    assert len(listed("- Worse", items, 3)) == 3
