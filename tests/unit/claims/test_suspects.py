"""Suspect rows: records that break a rule, and records that nearly do."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import builders
import numpy as np
import pytest
from filed import file_with_samples
from repository import ROOT

from harness.claims import answer, comparable
from harness.claims.at_once import at_once
from harness.claims.suspects import Suspect, marked, suspects
from harness.report.contents import answered_of, collect
from harness.report.intake import take_in
from harness.results.record import Metric, RunRecord, SampleScore
from harness.results.store import ResultStore, Stored
from harness.stats.bfloat16 import bf16

MakeRecord = Callable[..., RunRecord]
STUDIES = sorted((ROOT / "results" / "published").glob("*-smollm2"))
RNG = np.random.default_rng(0)
NLL = RNG.uniform(0.5, 8, 400)
RIGHT = np.arange(1000) % 4 < 2


def layers(*errors: float) -> list[dict[str, Any]]:
    shape, common = (2, 3), {"rule": "linear", "format": "f", "bits_per_weight": 8.0}
    found: Mapping[str, Any] = {**common, "shape": shape, "short_tail": False}
    return [{**found, "name": f"layer.{i}", "rel_error": error} for i, error in enumerate(errors)]


def answers(correct: Iterable[float], **more: Sequence[float]) -> list[SampleScore]:
    columns = {"correct": [*correct], **more}
    return [
        SampleScore(
            id=f"q{i:04}",
            cluster=str(i % 57),
            scores={name: float(values[i]) for name, values in columns.items()},
        )
        for i in range(len(columns["correct"]))
    ]


def windows(nll: np.ndarray) -> list[SampleScore]:
    """Windows of 20 tokens, each a document."""
    return [
        SampleScore(
            id=f"w{i:02}",
            cluster=str(i),
            scores={"nll": float(part.sum()), "num_tokens": 20},
            token_nll=tuple(part.tolist()),
            token_document=(i,) * 20,
        )
        for i, part in enumerate(nll.reshape(-1, 20))
    ]


class File:
    """Files runs, and returns what is suspect of them: recipe and the beginning of the reason."""

    def __init__(self, make_record: MakeRecord, root: Path) -> None:
        self.make, self.root = make_record, root

    def __call__(
        self, recipe: str, value: float, samples: Sequence[SampleScore], **changes: Any
    ) -> Stored:
        quant = changes.pop("quant", {})
        record = self.make(recipe, value, **changes)
        fields = record.model_dump() | {"recipe": recipe}
        fields["quant"] |= quant
        return file_with_samples(self.root, RunRecord(**fields), samples)

    @property
    def stored(self) -> list[Stored]:
        stored, problems = ResultStore(root=self.root).load()
        assert not problems
        return stored

    def suspects(self) -> dict[str, str]:
        return {x.row.label: x.reason for x in suspects(answer(comparable(self.stored)))}


@pytest.fixture
def file(make_record: MakeRecord, tmp_path: Path) -> File:
    return File(make_record, tmp_path / "results")


def perplexity(file: File, recipe: str, nll: np.ndarray, **changes: Any) -> Stored:
    value = float(np.exp(nll.mean()))
    return file(recipe, value, windows(nll), task="perplexity", **changes)


@pytest.mark.parametrize("study", STUDIES, ids=lambda path: path.name)
def test_nothing_of_the_published_studies_is_suspect(study: Path) -> None:
    stored, problems = take_in(study)
    assert not problems
    assert suspects(answer(comparable(stored))) == []


# Finer scales


@pytest.mark.parametrize(
    ("coarse", "fine", "fine_errors", "is_suspect"),
    [
        ("int8_row", "int8_g64", (0.01, 0.03), True),
        ("int8_tensor", "int8_row", (0.01, 0.03), True),
        ("int8_g128", "int8_g64", (0.01, 0.03), True),
        ("int8_row", "int8_g64", (0.01, 0.0208), False),  # 4 % more: where values fall
        ("int8_g96", "int8_g64", (0.01, 0.03), False),  # its groups lie in none of the others
        ("int8_row", "int4_g64", (0.1, 0.3), False),  # another element
        ("int8_g64", "int8_row", (0.02, 0.03), False),  # coarser scales have larger errors
        ("int8_row", "int8_column", (0.02, 0.03), False),
        ("mxfp8_e4m3fn_g64", "mxfp8_e4m3fn_g32", (0.01, 0.03), False),  # its scales jump by 2
    ],
)
def test_finer_scales_with_a_larger_error_are_suspect(
    file: File, coarse: str, fine: str, fine_errors: Sequence[float], *, is_suspect: bool
) -> None:
    perplexity(file, "none", NLL)
    for recipe, errors in ((coarse, (0.01, 0.02)), (fine, fine_errors)):
        perplexity(file, recipe, NLL + 0.01, quant={"layers": layers(*errors)})
    found = file.suspects()
    assert [*found] == ([fine] if is_suspect else [])
    if is_suspect:
        assert found[fine].startswith("1 of 2 layers have a larger weight error")
        assert "in layer.1 0.03, 0.02 with the coarser" in found[fine]


def error_of(weight: np.ndarray, num_in_group: int, codes: int = 127) -> float:
    """Return the relative error of round-to-nearest with one scale for each group."""
    groups = weight.reshape(-1, num_in_group)
    scales = np.abs(groups).max(axis=1, keepdims=True) / codes
    return float(
        np.linalg.norm(np.round(groups / scales) * scales - groups) / np.linalg.norm(groups)
    )


@pytest.mark.parametrize("bits", [8, 4])
def test_weights_that_were_rounded_to_the_coarser_form_are_not(file: File, bits: int) -> None:
    # As in a checkpoint that came quantized: its rows have no error, and every finer scale has one.
    codes = 2 ** (bits - 1) - 1
    weight = RNG.integers(-codes, codes + 1, (16, 256)).astype(np.float64)
    weight[:, 0] = codes
    before = weight + RNG.uniform(-0.02, 0.02, weight.shape)  # the scales were rounded to bfloat16
    coarse, fine = error_of(before, 256, codes), error_of(before, 4, codes)
    assert fine > 2 * coarse > 0
    for recipe, error in ((f"int{bits}_row", coarse), (f"int{bits}_g4", fine)):
        perplexity(file, recipe, NLL + 0.01, quant={"layers": layers(error)})
    assert file.suspects() == {}


@pytest.mark.parametrize("spread", ["uniform", "normal", "heavy"])
def test_no_weights_off_the_grid_have_so_small_an_error(spread: str) -> None:
    # The bound below which a coarse error says "rounded before" is never reached by other weights.
    weight = {
        "uniform": RNG.uniform(-1, 1, (64, 256)),
        "normal": RNG.normal(size=(64, 256)),
        "heavy": RNG.standard_t(3, (64, 256)),
    }[spread]
    for bits in (4, 6, 8):
        bound = 2.0 ** (1 - bits) / np.sqrt(12)
        assert error_of(weight, 16, 2 ** (bits - 1) - 1) > bound


def test_another_backend_is_no_coarser_form(file: File) -> None:
    perplexity(file, "int8_row", NLL, quant={"layers": layers(0.01)}, backend="torchao")
    perplexity(file, "int8_g64", NLL, quant={"layers": layers(0.03)})
    assert file.suspects() == {}


# Identity

SAME = {"layers": layers(0.0, 0.0)}


def test_an_identity_that_differs_is_suspect(file: File) -> None:
    perplexity(file, "none", NLL)
    changed = NLL.copy()
    changed[7] += 1e-6
    perplexity(file, "bf16", changed, quant=SAME)
    found = file.suspects()
    assert [*found] == ["bf16"]
    assert "no weight is changed, but" in found["bf16"]
    assert "1e-06 in a sample" in found["bf16"]


def test_flips_that_cancel_do_not_hide_an_identity_that_differs(file: File) -> None:
    flipped = RIGHT.copy()
    flipped[[0, 2]] = flipped[[2, 0]]
    file("none", 0.5, answers(RIGHT))
    file("bf16", 0.5, answers(flipped), quant=SAME)
    assert [*file.suspects()] == ["bf16"]


@pytest.mark.parametrize(
    ("change", "quant", "facts"),
    [
        (0.0, SAME, {}),
        (1e-6, {"layers": layers(0.0, 1e-4)}, {}),  # it changes weights
        (1e-6, {**SAME, "input_formats": {"linear": "int8_row"}}, {}),
        (1e-6, {**SAME, "cache_format": "fp8"}, {}),
        (1e-6, SAME, {"backend": "torchao"}),  # it multiplies in another way
        (1e-6, SAME, {"threads": 7}),  # sums in another order
    ],
)
def test_recipes_that_may_differ_are_not(
    file: File, change: float, quant: Mapping[str, Any], facts: Mapping[str, Any]
) -> None:
    perplexity(file, "none", NLL)
    perplexity(file, "bf16", NLL + change, quant=quant, **facts)
    assert file.suspects() == {}


# Real and fake


def parity(within: float | None) -> tuple[Metric, ...]:
    one = {"unit": "1", "n": 2, "n_of": "layer"}
    return (
        builders.metric("logprob_difference", 0.1),
        builders.metric("layer_difference", 0.2, **one),
        builders.metric("within_tolerance", within, note="above 0.01, the tolerance", **one),
    )


@pytest.mark.parametrize("within", [0.0, 1.0, None])
def test_a_backend_that_does_not_compute_its_fake_form_is_suspect_in_every_table(
    file: File, within: float | None
) -> None:
    perplexity(file, "none", NLL)
    perplexity(file, "int8_row", NLL + 0.01)
    real = {"backend": "torchao", "config_hash": "real"}
    perplexity(file, "int8_row", NLL + 0.01, **real)
    file(
        "int8_row",
        0.1,
        windows(NLL),
        task="parity",
        metrics=parity(within),
        options={"of": 1},
        **real,
    )
    found = suspects(answer(comparable(file.stored)))
    seen = sorted((each.row.task.name, each.row.quant.backend) for each in found)
    both = [("parity", "torchao"), ("perplexity", "torchao")]
    assert seen == (both if within == 0.0 else [])
    assert all("a layer differs by 0.2 (above 0.01, the tolerance)" in x.reason for x in found)


# The grid of bfloat16


@pytest.mark.parametrize(
    ("nll", "is_suspect"),
    [
        (bf16(NLL), True),
        (NLL, False),
        (np.append(bf16(NLL[:-1]), 3.0001), False),  # one value is off the grid
        (np.repeat([1.0, 2.0], 200), False),  # two values show no grid
    ],
)
def test_losses_on_the_grid_of_bfloat16_are_suspect(
    file: File, nll: np.ndarray, *, is_suspect: bool
) -> None:
    perplexity(file, "none", NLL)
    perplexity(file, "int8_row", nll)
    found = {name: why for name, why in file.suspects().items() if "bfloat16" in why}
    assert [*found] == (["int8_row"] if is_suspect else [])


def test_log_probabilities_of_letters_on_the_grid_are_suspect(file: File) -> None:
    of_letters = RNG.uniform(-4, -0.1, 1000)
    file("none", 0.5, answers(RIGHT, log_prob_A=of_letters))
    file("int8_row", 0.5, answers(RIGHT, log_prob_A=bf16(of_letters)))
    found = file.suspects()
    assert [*found] == ["int8_row"]
    assert "values of log_prob in its samples are bfloat16 numbers" in found["int8_row"]


# Parse rates


@pytest.mark.parametrize(("unread", "is_suspect"), [(6, True), (5, False), (0, False)])
def test_parse_rates_that_differ_are_suspect(file: File, unread: int, *, is_suspect: bool) -> None:
    # Five flips one way have an exact p of 2 / 2^5 = 0.0625, six have 0.031.
    parsed = np.ones(1000)
    file("none", 0.5, answers(RIGHT, parsed=parsed), task="mmlu_generate")
    less = np.where(np.arange(1000) < unread, 0.0, 1.0)
    file("int8_row", 0.5, answers(RIGHT, parsed=less), task="mmlu_generate")
    found = file.suspects()
    assert [*found] == (["int8_row"] if is_suspect else [])
    if is_suspect:
        assert found["int8_row"].startswith(
            "99.40 % of its answers can be read as a letter, 100.00"
        )
        assert "p = 0.031" in found["int8_row"]


def test_parse_rates_are_a_family(file: File) -> None:
    file("none", 0.5, answers(RIGHT, parsed=np.ones(1000)), task="mmlu_generate")
    for recipe, unread in (("int8_row", 6), ("int4_row", 0)):
        parsed = np.where(np.arange(1000) < unread, 0.0, 1.0)
        file(recipe, 0.5, answers(RIGHT, parsed=parsed), task="mmlu_generate")
    assert file.suspects() == {}


# Better than the unquantized model


@pytest.mark.parametrize(("more", "is_suspect"), [(6, True), (5, False)])
def test_a_recipe_that_beats_the_baseline_is_suspect(
    file: File, more: int, *, is_suspect: bool
) -> None:
    better = RIGHT.copy()
    better[np.flatnonzero(~RIGHT)[:more]] = True
    file("none", 0.5, answers(RIGHT))
    run = file("int8_row", float(better.mean()), answers(better))
    found = file.suspects()
    assert [*found] == (["int8_row"] if is_suspect else [])
    said = [line for line in at_once(run, file.stored) if line.startswith("int8_row is suspect: ")]
    assert said == [f"int8_row is suspect: {why}" for why in found.values()]


def test_a_recipe_that_is_worse_is_not(file: File) -> None:
    perplexity(file, "none", NLL)
    perplexity(file, "int8_row", NLL + RNG.normal(0.1, 0.01, 400))
    assert file.suspects() == {}


# Where it is said


def test_a_report_begins_with_suspect_rows_and_marks_them(file: File, tmp_path: Path) -> None:
    better = RIGHT.copy()
    better[np.flatnonzero(~RIGHT)[:30]] = True
    file("none", 0.5, answers(RIGHT))
    file("int8_row", float(better.mean()), answers(better))
    found = collect(file.stored, answered_of(file.stored), [], tmp_path / "r.md")
    first, reasons, ranking, *_ = found
    assert "Suspect, see the section Suspect rows: int8_row (mmlu)." in first.text
    assert reasons.title == "Suspect rows"
    assert "\nint8_row, mmlu of m: " in reasons.text
    assert ranking.table is not None
    assert [*ranking.table["recipe"]] == ["int8_row (suspect)", "baseline"]


def test_a_report_without_suspect_rows_does_not_speak_of_them(file: File, tmp_path: Path) -> None:
    file("none", 0.5, answers(RIGHT))
    file("int8_row", 0.5, answers(RIGHT))
    sections = collect(file.stored, answered_of(file.stored), [], tmp_path / "r.md")
    assert not any("uspect" in f"{each.title} {each.text}" for each in sections)


def test_marks_change_nothing_but_names(file: File) -> None:
    file("none", 0.5, answers(RIGHT))
    answered = answer(comparable(file.stored))
    assert marked(answered, []) == answered


def test_of_a_run_of_two_tasks_only_the_suspect_one_is_marked(file: File) -> None:
    file("none", 0.5, answers(RIGHT))
    (answered,) = answer(comparable(file.stored))
    (row,) = answered.group.rows
    parts = [
        replace(row, stored=replace(row.stored, part=part)) for part in ("direct/", "generate/")
    ]
    both = [replace(answered, group=replace(answered.group, rows=(part,))) for part in parts]
    found = marked(both, [Suspect(row=parts[1], reason="odd")])
    assert [each.group.rows[0].label for each in found] == ["baseline", "baseline (suspect)"]
