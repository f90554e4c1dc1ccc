"""Quality against bits: paired differences, verdicts, the frontier, and the picture."""

import math
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy import stats as scipy_stats
from studies import record_maker

from harness.claims import Answered, answer, comparable
from harness.errors import ResultError
from harness.report import plots
from harness.report.__main__ import write
from harness.report.sections.quality import quality_against_bits
from harness.results.record import SampleScore
from harness.results.store import ResultStore

Table = dict[str, dict[str, str]]
TOKENS = (100, 50, *[100] * 10)
"""Documents of unequal length: means over tokens and over windows differ."""
BASE = np.random.default_rng(0).normal(3.0, 0.4, len(TOKENS))
NOISE = np.random.default_rng(1).normal(0.0, 0.002, len(TOKENS))


def samples_of(nll: Sequence[float], *, documents: bool = True) -> list[SampleScore]:
    """Return windows whose tokens all have the same NLL."""
    return [
        SampleScore(
            id=str(i),
            cluster=str(i),
            scores={"nll": v * n, "num_tokens": n},
            token_nll=(v,) * n,
            token_document=(i,) * n if documents else None,
        )
        for i, (v, n) in enumerate(zip(nll, TOKENS, strict=False))
    ]


def filed(
    root: Path,
    recipes: dict[str, tuple[float, Sequence[float]]],
    windows: int = len(TOKENS),
    documents: bool = True,
) -> Path:
    """File a baseline and recipes: name -> (bits, NLL above the baseline in each window)."""
    store, make_record = ResultStore(root=root), record_maker()
    for name, (bits, extra) in {"none": (32.0, np.zeros(len(TOKENS))), **recipes}.items():
        nll = [float(v) for v in (BASE + extra)[:windows]]
        record = make_record(name, math.exp(3), "perplexity", bits=bits)
        assert record.task is not None
        data = {**record.task.data, "num_windows": windows}
        task = record.task.model_copy(update={"data": data})
        path = store.path(record, task="perplexity", model="m", recipe=name)
        samples = samples_of(nll, documents=documents)
        file, digest = store.write_samples(path, samples)
        headline = record.metrics[0].model_copy(update={"n": sum(TOKENS[:windows])})
        update = {"task": task, "metrics": (headline,)}
        update |= {"samples_file": file, "samples_sha256": digest}
        store.write(path, record.model_copy(update=update))
    return store.root


@pytest.fixture
def study(tmp_path: Path) -> Callable[..., Path]:
    """A function that files a baseline and recipes; see `filed`."""
    return partial(filed, tmp_path / "results")


def only_group(root: Path) -> Answered:
    stored, problems = ResultStore(root=root).load()
    assert not problems
    (answered,) = answer(comparable(stored))
    return answered


RECIPES = {
    "big": (8.25, NOISE),
    "six": (6.25, NOISE + 0.02),
    "bad_six": (6.25, NOISE + 0.05),
    "four": (4.25, NOISE + 0.3),
    "good": (8.5, NOISE - 0.01),
}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Table:
    """The table of `RECIPES`."""
    folder = tmp_path_factory.mktemp("study")
    section = quality_against_bits(only_group(filed(folder, RECIPES)), folder / "p.png")
    assert section is not None
    assert section.table is not None
    return section.table.set_index("recipe").to_dict("index")


def test_without_matplotlib_the_table_stands_and_a_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group, picture = only_group(filed(tmp_path, RECIPES)), tmp_path / "p.png"
    drawn = quality_against_bits(group, picture)
    assert picture.is_file()
    picture.unlink()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    without = quality_against_bits(group, picture)
    assert drawn is not None
    assert without is not None
    assert (drawn.picture, without.picture, picture.exists()) == ("p.png", None, False)
    assert "pip install 'llm-quant-harness[plots]'" not in drawn.text
    assert without.text.splitlines()[-1] == plots.LEFT_OUT
    assert "pip install 'llm-quant-harness[plots]'" in plots.LEFT_OUT
    assert without.table is not None
    assert without.table.equals(drawn.table)


def test_difference_is_that_of_token_means(table: Table) -> None:
    expected = float(np.average(NOISE + 0.3, weights=TOKENS))
    assert float(table["four"]["difference [nat/token]"]) == pytest.approx(expected, abs=6e-6)


def test_interval_is_paired(table: Table) -> None:
    low, high = table["six"]["95 % interval"].split(" .. ")
    values, documents = np.repeat(NOISE + 0.02, TOKENS), np.repeat(np.arange(12), TOKENS)
    left_out = np.asarray([values[documents != i].mean() for i in range(12)])
    error = math.sqrt(11 / 12 * ((left_out - values.mean()) ** 2).sum())
    freedom = sum(TOKENS) ** 2 / sum(n**2 for n in TOKENS) - 1
    expected = scipy_stats.t.interval(0.95, freedom, loc=values.mean(), scale=error)
    assert (float(low), float(high)) == pytest.approx(expected, abs=6e-6)
    # Unpaired, the windows' own spread of 0.4 would drown it.
    assert float(high) - float(low) < 0.01


def test_verdict_is_that_of_the_interval(table: Table) -> None:
    found = {name: row["differs from baseline"] for name, row in table.items()}
    unclear = "cannot tell"
    assert found == {
        "four": "worse",
        "six": "worse",
        "bad_six": "worse",
        "big": unclear,
        "good": "better",
    }


def test_frontier_has_what_nothing_smaller_beats(table: Table) -> None:
    assert list(table) == ["four", "six", "bad_six", "big", "good"]
    frontier = [name for name, row in table.items() if row["on the frontier"] == "yes"]
    assert frontier == ["four", "six", "big", "good"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"windows": 4}, "no interval from 4 documents, worth 3.8 of equal size; it takes 5"),
        (
            {"documents": False},
            "no interval: the samples do not say which document each token is of",
        ),
    ],
)
def test_few_or_unknown_documents_carry_no_interval_and_no_verdict_and_say_why(
    study: Callable[..., Path], tmp_path: Path, options: dict[str, Any], reason: str
) -> None:
    section = quality_against_bits(only_group(study(RECIPES, **options)), tmp_path / "p.png")
    assert section is not None
    assert section.table is not None
    assert set(section.table["differs from baseline"]) == {"cannot tell"}
    assert set(section.table["95 % interval"]) == {"-"}
    assert reason in section.text


def test_too_few_formats_make_no_section(study: Callable[..., Path], tmp_path: Path) -> None:
    three = dict(list(RECIPES.items())[:3])
    picture = tmp_path / "p.png"
    assert quality_against_bits(only_group(study(three)), picture) is None
    assert not picture.exists()


def test_runs_of_other_windows_are_not_paired(study: Callable[..., Path], tmp_path: Path) -> None:
    root = study(RECIPES)
    stored, _ = ResultStore(root=root).load()
    (baseline,) = (
        item for item in stored if item.record.quant and item.record.quant.name == "none"
    )
    samples = [SampleScore(id="elsewhere", cluster="0", scores={"nll": 1.0, "num_tokens": 1})]
    file, digest = ResultStore(root=root).write_samples(baseline.path, samples)
    update = {"samples_file": file, "samples_sha256": digest}
    ResultStore(root=root).write(baseline.path, baseline.record.model_copy(update=update))
    with pytest.raises(ResultError, match="must have the windows of the baseline"):
        quality_against_bits(only_group(root), tmp_path / "p.png")


def test_names_in_pictures_are_text_and_the_powers_of_the_axis_are_formulas(
    study: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = (r"$\frac$", "a$b$^{", "模型")
    picture, drawn, save = tmp_path / "p.png", [], Figure.savefig

    def keep(figure: Figure, *arguments: Any, **options: Any) -> None:
        drawn.append(figure)
        save(figure, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    named = {name: (5.0 + number, NOISE) for number, name in enumerate(names)}
    quality_against_bits(only_group(study({**RECIPES, **named})), picture)
    assert picture.stat().st_size > 10_000
    axes = drawn[0].axes[0]
    shown = {text.get_text(): text.get_parse_math() for text in axes.texts}
    assert {name: shown[name] for name in names} == dict.fromkeys(names, False)
    powers = [label for label in axes.get_yticklabels() if label.get_text().startswith("$")]
    assert powers, "the axis has a logarithmic scale"
    assert all(label.get_parse_math() for label in powers)


def test_report_shows_the_picture_it_wrote(study: Callable[..., Path], tmp_path: Path) -> None:
    path = write(study(RECIPES), tmp_path / "reports", "formats")
    picture = path.with_name("formats-quality-1.png")
    assert f"({picture.name})" in path.read_text(encoding="utf-8")
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size > 10_000
