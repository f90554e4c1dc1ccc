"""A report as an outsider reads it: nothing twice, nothing empty, nothing that is not so."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from repository import ROOT
from scipy import stats

from harness.claims.grouping import comparable
from harness.report import contents, plots
from harness.report.__main__ import write
from harness.report.contents import answered_of, collect
from harness.report.intake import take_in
from harness.report.sections import reading, verdicts
from harness.report.sections.section import Section
from harness.report.sections.subjects import subjects
from harness.results.record import Metric, RunRecord, Unit
from harness.results.store import Stored

STUDIES = sorted(path for path in (ROOT / "results" / "published").glob("*-smollm2"))
MakeRecord = Callable[..., RunRecord]
FileRecords = Callable[..., Path]


def headings(text: str) -> list[str]:
    return [line.removeprefix("## ") for line in text.splitlines() if line.startswith("## ")]


def metric(name: str, n: int, n_of: str, **changes: Any) -> Metric:
    fields: dict[str, Any] = {"value": 0.5, "unit": Unit.FRACTION, "higher_is_better": True}
    return Metric(name=name, n=n, n_of=n_of, **fields | changes)


@pytest.mark.parametrize("study", STUDIES, ids=lambda path: path.name)
def test_published_studies_are_whole_and_every_table_says_something(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Drawing takes longer than all tables; test_quality and test_throughput draw.
    drawn = list[Path]()
    for name in ("scatter_of_costs", "bars_of_throughput"):
        monkeypatch.setattr(plots, name, lambda _points, _title, path: drawn.append(path) is None)
    stored, problems = take_in(study)
    assert problems == []
    found = collect(stored, answered_of(stored), problems, tmp_path / "r.md")
    assert problems == []
    titles = [section.title for section in found]
    assert len(titles) == len(set(titles))
    files = [section.picture for section in found if isinstance(section.picture, str)]
    assert files == [p.name for p in drawn]
    assert not any("By subject: perplexity" in title for title in titles)
    for section in found:
        assert section.text, f"{section.title} is explained"
        if section.table is None:
            assert section.name in ("answer", "claims", "appendices", "reading", "suspect-rows")
            continue
        assert len(section.table), section.title
        assert not section.table.isna().any().any(), section.title


def test_windows_of_a_text_are_no_subjects(
    make_record: MakeRecord, file_records: FileRecords
) -> None:
    parts = tuple(metric(f"perplexity/first_{n}", n, "token") for n in (512, 1024))
    record = make_record("none", 9.0, task="perplexity", extra=parts)
    (group,) = comparable(take_in(file_records(record)).stored)
    assert subjects(group) is None


def test_subjects_say_how_little_their_numbers_of_questions_tell(
    make_record: MakeRecord, file_records: FileRecords
) -> None:
    parts = tuple(metric(f"accuracy/{s}", n, "question") for s, n in (("a", 3), ("b", 400)))
    (group,) = comparable(take_in(file_records(make_record("none", extra=parts))).stored)
    section = subjects(group)
    assert section is not None
    for right, n in ((1, 3), (200, 400)):
        found = stats.binomtest(right, n).proportion_ci(0.95, method="wilson")
        assert f"{100 * found.low:.2f} % .. {100 * found.high:.2f} %" in section.text
    assert "so few" not in section.text


def test_subjects_of_equal_size_have_one_interval(
    make_record: MakeRecord, file_records: FileRecords
) -> None:
    parts = tuple(metric(f"accuracy/{s}", 3, "question") for s in ("a", "b"))
    (group,) = comparable(take_in(file_records(make_record("none", extra=parts))).stored)
    section = subjects(group)
    assert section is not None
    assert section.text.count("95 % interval") == 1


DIFFERENT: Mapping[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "options": ({"options": {"limit": 8}}, {"options": {"limit": 9}}, "limit=8"),
    "type": ({"dtype": "float32"}, {"dtype": "bfloat16"}, "bfloat16"),
    "weights": ({"weights": "pretrained"}, {"weights": "random"}, "random weights"),
    "fingerprint": ({"fingerprint": "aaaa1111x"}, {"fingerprint": "bbbb2222y"}, "weights aaaa1111"),
    "device": ({"device": "cpu"}, {"device": "cuda"}, "on cuda"),
    "data": ({"data": "one"}, {"data": "two"}, "questions_sha256=one"),
}


@pytest.mark.parametrize("kind", DIFFERENT)
def test_titles_say_how_tables_differ(kind: str, make_record: MakeRecord, tmp_path: Path) -> None:
    one, other, expected = DIFFERENT[kind]
    for task in ("mmlu", "perplexity", "divergence"):
        stored = [
            Stored(
                path=tmp_path / task / "m" / f"{number}.json",
                record=make_record(recipe, task=task, **facts),
            )
            for number, facts in enumerate((one, other))
            for recipe in ("none", "int8_row")
        ]
        problems: list[str] = []
        titles = [
            section.title
            for section in collect(stored, answered_of(stored), problems, tmp_path / "r.md")
        ]
        assert problems == []
        assert len(titles) == len(set(titles)), titles
        assert any(expected in title for title in titles), titles
        assert not any("of 2)" in title for title in titles), "counting is the last resort"


def test_a_table_that_stands_alone_has_a_plain_title(
    make_record: MakeRecord, file_records: FileRecords, tmp_path: Path
) -> None:
    text = write(file_records(make_record("none")), tmp_path / "out", "r").read_text()
    assert headings(text) == [
        "The answer",
        "Ranking against the baseline: mmlu of m (questions)",
        "Appendices",
        "Size and coverage: m, float32",
        "Records",
        reading.TITLE,
    ]


def test_sizes_stand_once_a_model_however_many_tasks_it_ran(
    make_record: MakeRecord, file_records: FileRecords, tmp_path: Path
) -> None:
    tasks = ("mmlu", "perplexity", "mmlu_generate")
    root = file_records(
        *(make_record(r, task=task) for task in tasks for r in ("none", "int8_row")),
        make_record("int8_row", seed=7),
    )
    text = write(root, tmp_path / "out", "r").read_text(encoding="utf-8")
    assert sum("Size and coverage" in title for title in headings(text)) == 1
    table = text.split("## Size and coverage")[1].split("\n## ")[0]
    assert table.count("\n| `int8_row` ") == 1
    assert table.count("\n| baseline ") == 1


def test_size_in_memory_is_shown_where_any_record_of_the_recipe_has_it(
    make_record: MakeRecord, file_records: FileRecords, tmp_path: Path
) -> None:
    root = file_records(
        make_record("int8_row", seed=1, stored_bytes=7_000_000),
        make_record("int8_row", seed=2),
        make_record("int8_row", seed=3, stored_bytes=8_000_000),
        make_record("int4_row"),
    )
    text = write(root, tmp_path / "out", "r").read_text(encoding="utf-8")
    table = text.split("## Size and coverage")[1].split("\n## ")[0].splitlines()
    shown = [[c.strip() for c in row.strip("|").split("|")] for row in table if "row`" in row]
    titles = next(
        [c.strip() for c in row.strip("|").split("|")] for row in table if "recipe" in row
    )
    found = [(row[0], row[titles.index("in memory")]) for row in shown]
    assert sorted(found) == [
        ("`int4_row`", "-"),
        ("`int8_row`", "7.00 MB"),
        ("`int8_row`", "8.00 MB"),
    ]


def test_two_models_of_one_name_have_two_tables_of_sizes_that_say_which(
    make_record: MakeRecord, file_records: FileRecords, tmp_path: Path
) -> None:
    root = file_records(
        *(make_record("none", fingerprint=found) for found in ("tiny-v1-seed0", "a1" * 32))
    )
    titles = headings(write(root, tmp_path / "out", "r").read_text(encoding="utf-8"))
    sizes = [title for title in titles if title.startswith("Size")]
    names = ("tiny-v1-seed0", "a1a1a1a1")
    assert sorted(sizes) == sorted(f"Size and coverage: m, float32, weights {x}" for x in names)
    assert [sum(f"weights {x}" in title for title in titles) for x in names] == [2, 2]


def test_floor_of_log_losses_stands_beside_no_accuracy(
    make_record: MakeRecord, file_records: FileRecords, tmp_path: Path
) -> None:
    small = {
        "unit": Unit.NAT_PER_TOKEN,
        "value": 1e-6,
        "higher_is_better": False,
        "note": "batch 2",
    }
    floor = tuple(metric(f"batch/{n}", 1, "token", **small) for n in ("kl_mean", "ln_ppl_ratio"))
    root = file_records(
        make_record("none"),
        make_record("none", 9.0, task="perplexity"),
        make_record("none", task="noise_floor", metrics=floor),
    )
    text = write(root, tmp_path / "out", "r").read_text(encoding="utf-8")
    sections = {part.split("\n")[0]: part for part in text.split("\n## ")[1:]}
    assert (
        "Noise floor, the unquantized"
        in sections["Ranking against the baseline: perplexity of m (questions)"]
    )
    assert (
        "Noise floor, the unquantized"
        not in sections["Ranking against the baseline: mmlu of m (questions)"]
    )


def test_warnings_name_the_runs_that_gave_them(
    make_record: MakeRecord, file_records: FileRecords, tmp_path: Path
) -> None:
    names = [f"r{i}" for i in range(6)]
    root = file_records(*(make_record(name, warnings=("beware",)) for name in names))
    text = write(root, tmp_path / "out", "r").read_text(encoding="utf-8")
    line = next(line for line in text.splitlines() if "beware" in line)
    assert "mmlu r0, mmlu r1, mmlu r2, mmlu r3 and 2 more" in line


def test_section_that_fails_is_listed_and_the_others_are_written(
    make_record: MakeRecord,
    file_records: FileRecords,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Records that are well each by itself may still not go together."""

    def fail(*_: object) -> Section:
        raise ZeroDivisionError("two of them")

    stored, problems = take_in(file_records(make_record("none"), make_record("int8_row")))
    monkeypatch.setattr(contents, "sizes", fail)
    found = collect(stored, answered_of(stored), problems, tmp_path / "r.md")
    assert len(problems) == 1
    assert "a section of the report is missing: ZeroDivisionError: two of them" in problems[0]
    assert [section.title for section in found] == [
        "The answer",
        "Left out: files that cannot be used",
        "Ranking against the baseline: mmlu of m (questions)",
        "Appendices",
        verdicts.TITLE,
        "Records",
        reading.TITLE,
    ]
    assert "lacks 1 file" in found[0].text


def test_tables_records_and_warnings_name_the_float_model_alike(
    make_record: MakeRecord, file_records: FileRecords, tmp_path: Path
) -> None:
    records = (make_record(r, warnings=("a warning",)) for r in ("none", "int8_row"))
    text = write(file_records(*records), tmp_path / "out", "r").read_text()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    named = [row for row in rows if len(row) > 1 and ("baseline" in row or "none" in row[:3])]
    assert [row.index("baseline") for row in named] == [0, 0, 1]
    assert ["mmlu baseline, mmlu `int8_row`", "a warning"] in rows
