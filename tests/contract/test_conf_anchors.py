"""Every file of conf/anchors names tasks, options, metrics and recipes that there are."""

from collections import Counter
from pathlib import Path

import pytest
import yaml
from repository import ROOT

from harness.anchors.files import FOLDER, read
from harness.anchors.schema import Anchor
from harness.results import names

TASKS = ROOT / "conf" / "task"
RECIPES = {file.stem for file in (ROOT / "conf" / "quant").glob("*.yaml")}
METRICS = {
    names.PERPLEXITY: "perplexity",
    names.PERPLEXITY_LLAMA_CPP: "perplexity",
    names.PERPLEXITY_DOCUMENTS: "word_perplexity",
    names.MMLU: "accuracy",
    None: "perplexity",
}
DATA = {names.MMLU: "mmlu/test", "lm_eval": None}
"""Data of the tasks that do not take the text."""


def problems(anchor: Anchor) -> list[str]:
    """Return what is wrong with a figure."""
    table, published = anchor.table, anchor.published
    found = []
    if table.task is not None:
        options = yaml.safe_load((TASKS / f"{table.task}.yaml").read_text(encoding="utf-8"))
        found += [f"{table.task} has no {key}" for key in table.options.keys() - options.keys()]
    if table.task == "lm_eval":
        tasks = table.options["tasks"]
        assert isinstance(tasks, tuple)
        if [table.metric.partition("/")[0]] != [*tasks]:
            found.append(f"{table.metric} is not of {tasks}")
    elif METRICS[table.task] != table.metric:
        found.append(f"{table.task} has no {table.metric}")
    data = DATA.get(table.task, "wikitext2-raw-v1/test") if table.task is not None else None
    if table.data != data:
        found.append(f"{table.task} is of {data}, not of {table.data}")
    if published.recipe is not None and published.recipe not in RECIPES:
        found.append(f"no recipe {published.recipe}")
    # A tolerance says how far two tools are apart. It must not hide a difference worth a sentence.
    if anchor.tolerance > 0.02 * published.value:
        found.append(f"{anchor.tolerance} is more than 2 % of {published.value}")
    return found


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.yaml")), ids=lambda file: file.stem)
def test_a_file_of_published_figures_fits_the_harness(file: Path) -> None:
    found = read(file)
    wrong = [(anchor.published.model, problem) for anchor in found for problem in problems(anchor)]
    assert wrong == []
    same = Counter(
        (anchor.published.model, anchor.published.quantization, anchor.table.metric, anchor.words)
        for anchor in found
    )
    assert [key for key, count in same.items() if count > 1] == []
