"""`quant-harness compare`: four exit codes, what is refused and why, and three ways to write it."""

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import builders
import numpy as np
import pytest
from filed import file_with_samples
from studies import MakeRecord

from harness.compare.__main__ import SUMMARY, main
from harness.results.record import SampleScore

File = Callable[..., Path]
RIGHT = np.arange(1000) % 4 == 0
"""A quarter of 1,000 answers."""


def flipped(to_wrong: int, to_right: int) -> np.ndarray:
    after: np.ndarray = RIGHT.copy()
    after[np.flatnonzero(RIGHT)[:to_wrong]] = False
    after[np.flatnonzero(~RIGHT)[:to_right]] = True
    return after


@pytest.fixture
def file(file_answers: File) -> File:
    return file_answers


@pytest.fixture
def compare(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Run the command; return its exit code, and what it printed."""

    def run(*words: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["harness.compare", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        shown = capsys.readouterr()
        return int(str(ended.value.code)), shown.out + shown.err

    return run


@pytest.mark.parametrize(
    ("flips", "margin", "code"),
    [
        ((2, 30), (), 0),  # better
        ((30, 2), (), 1),
        ((12, 9), (), 2),
        ((0, 0), (), 2),  # without a margin, equal is not "not worse"
        ((0, 0), ("--margin", "accuracy=1pp"), 0),
        ((30, 2), ("--margin", "accuracy=5pp"), 0),  # a loss that is real and small enough
        ((30, 2), ("--margin", "accuracy=2pp"), 2),
        ((100, 2), ("--margin", "accuracy=2pp"), 1),
    ],
)
def test_exit_code_is_the_decision(
    file: File,
    compare: Callable[..., tuple[int, str]],
    flips: tuple[int, int],
    margin: tuple[str, ...],
    code: int,
) -> None:
    found, shown = compare(file(RIGHT), file(flipped(*flips), recipe="int8_row"), *margin)
    assert found == code, shown
    words = ("not worse", "worse", "cannot tell")[code]
    assert shown.splitlines()[-1] == f"all in all: {words}"
    is_open = code == 2 and "--margin" in margin
    assert ("may be smaller or larger than the margin, 2 pp" in shown) is is_open
    assert "exact McNemar" in shown


def test_folders_are_paired_by_recipe(file: File, compare: Callable[..., tuple[int, str]]) -> None:
    roots = []
    for folder, flips in (("before", (0, 0)), ("after", (40, 2))):
        file(RIGHT, folder)
        roots.append(file(flipped(*flips), folder, "int8_row").parents[2])
    code, shown = compare(*roots)
    assert code == 1, shown
    assert "worse: int8_row: worse than int8_row" in shown
    assert "cannot tell: baseline" in shown


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"model": "other", "fingerprint": "x"}, "unquantized weights: "),
        ({"data": "data-2"}, "data-1 and data-2"),
        ({"dtype": "bfloat16"}, "dtype: "),
        ({"task": "mmlu_generate"}, "task: mmlu and mmlu_generate"),
    ],
)
def test_runs_that_differ_in_more_than_the_recipe_are_refused(
    file: File, compare: Callable[..., tuple[int, str]], facts: dict[str, str], reason: str
) -> None:
    code, shown = compare(file(RIGHT), file(RIGHT, "other", **facts))
    assert code == 3
    assert reason in shown


def test_lost_samples_and_missing_files_are_refused(
    file: File, compare: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    path, other = file(RIGHT), file(flipped(9, 2), recipe="int8_row")
    code, shown = compare(path, tmp_path / "nothing.json")
    assert code == 3
    assert "nothing.json must be a record or a folder of records" in shown
    other.with_suffix(".samples.parquet").unlink()
    code, shown = compare(path, other)
    assert code == 3
    assert "repeat the run" in shown


def test_a_run_is_not_compared_with_itself(
    file: File, compare: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    path = file(RIGHT)
    code, shown = compare(path, path, "--margin", "accuracy=1pp")
    assert code == 3
    assert "does not differ from itself" in shown
    # A baseline that both folders hold says nothing; the recipes beside it do.
    before = file(RIGHT, "before", "int8_row")
    after = file(flipped(40, 2), "after", "int8_row")
    for folder in ("before", "after"):
        copy = tmp_path / folder / path.relative_to(tmp_path / "results")
        for suffix in (".json", ".samples.parquet"):
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path.with_suffix(suffix), copy.with_suffix(suffix))
    code, shown = compare(before.parents[2], after.parents[2])
    assert code == 1, shown
    assert len(shown.splitlines()) == 2


def test_a_recipe_that_the_reference_lacks_does_not_pass(
    file: File, compare: Callable[..., tuple[int, str]]
) -> None:
    before = file(RIGHT, "before").parents[2]
    file(RIGHT, "after")
    file(flipped(200, 0), "after", "int8_row")
    code, shown = compare(before, before.parent / "after", "--margin", "accuracy=1pp")
    assert code == 3, shown
    assert "int8_row, mmlu: the reference has no run of this recipe" in shown
    as_json = json.loads(compare(before, before.parent / "after", "--format=json")[1])
    assert [each["decision"] for each in as_json["comparisons"]] == [
        "cannot tell",
        "invalid comparison",
    ]


def test_a_margin_of_a_measure_that_no_run_has_does_not_pass(
    file: File, compare: Callable[..., tuple[int, str]]
) -> None:
    pair = file(RIGHT, "before"), file(RIGHT, "after")
    code, shown = compare(*pair, "--margin", "accuracy=1pp,kl=0.01")
    assert code == 3, shown
    assert "got also kl" in shown
    assert "got also perplexity, log_loss" in compare(*pair, "--margin", "perplexity=1%")[1]


@pytest.mark.parametrize("harm", ["damaged", "failed", "without a value"])
def test_a_candidate_with_a_run_without_a_result_does_not_pass(
    file: File, compare: Callable[..., tuple[int, str]], harm: str
) -> None:
    for folder in ("before", "after"):
        file(RIGHT, folder)
        other = file(flipped(200, 0), folder, "int8_row")
    record = json.loads(other.read_text(encoding="utf-8"))
    match harm:
        case "damaged":
            other.write_text(other.read_text(encoding="utf-8")[:-100], encoding="utf-8")
        case "failed":
            record |= {"status": "error", "error": "out of memory", "metrics": []}
            record |= {"samples_file": None, "samples_sha256": None}
        case _:
            record["metrics"][0] |= {"value": None, "ci95": None, "note": "not finite"}
    if harm != "damaged":
        other.write_text(json.dumps(record), encoding="utf-8")
    code, shown = compare(other.parents[3] / "before", other.parents[2], "--margin", "accuracy=1pp")
    assert code == 3, shown
    assert other.name in shown


@pytest.mark.parametrize(("share", "code"), [(0.01, 1), (0.05, 2)])
@pytest.mark.parametrize("is_record", [True, False])
def test_a_loss_up_to_the_noise_floor_is_not_worse(
    file: File,
    compare: Callable[..., tuple[int, str]],
    make_record: MakeRecord,
    share: float,
    code: int,
    is_record: bool,
) -> None:
    paths = file(RIGHT, "before"), file(flipped(30, 0), "after", "int8_row")
    names = ("kl_mean", "ln_ppl_ratio", "flips")
    floor = make_record(
        task="noise_floor",
        metrics=tuple(
            builders.metric(f"batch/{name}", share, unit="fraction", n=500, n_of="question")
            for name in names
        ),
    )
    samples = [SampleScore(id=str(i), cluster="c", scores={"correct": 1.0}) for i in range(500)]
    file_with_samples(paths[0].parents[2], floor, samples)
    found, shown = compare(*(path if is_record else path.parents[2] for path in paths))
    assert found == code, shown
    # The other way round it would be better.
    assert compare(*reversed(paths))[0] == (0 if code == 1 else 2)


def test_a_summary_that_cannot_be_written_is_not_worse(
    file: File,
    compare: Callable[..., tuple[int, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(SUMMARY, str(tmp_path / "none" / "summary.md"))
    pair = file(flipped(30, 2)), file(RIGHT, recipe="int8_row")
    code, shown = compare(*pair, "--format=github")
    assert code == 3
    assert "summary.md" in shown


@pytest.mark.parametrize("streams", [">&-", ">&- 2>&-"])
def test_closed_streams_leave_the_decision_as_it_is(file: File, streams: str) -> None:
    pair = file(flipped(30, 2)), file(RIGHT, recipe="int8_row")
    command = shlex.join([sys.executable, "-m", "harness.compare", *map(str, pair)])
    assert subprocess.run(f"{command} {streams}", shell=True, check=False).returncode == 0  # noqa: S602


@pytest.mark.parametrize(
    ("margin", "reason"),
    [
        ("acuracy=1pp", "did you mean accuracy?"),
        ("accuracy=1%", "like accuracy=0.5pp"),
        ("accuracy=-1pp", "above 0"),
        ("perplexity=1", "like perplexity=0.5%"),
        ("kl=x", "above 0"),
        ("accuracy=1pp,accuracy=2pp", "once for each measure"),
        ("perplexity=1%,log_loss=0.01", "once for each measure"),
        (",", "must be like accuracy=1pp"),
        ("accuracy=0_5pp", "above 0"),
        ("accuracy=100pp", "no accuracy falls by 100pp"),
    ],
)
def test_margin_that_could_be_misread_is_refused(
    file: File, compare: Callable[..., tuple[int, str]], margin: str, reason: str
) -> None:
    path = file(RIGHT)
    code, shown = compare(path, path, "--margin", margin)
    assert code == 3
    assert reason in shown


def test_wrong_usage_does_not_exit_with_the_code_of_cannot_tell(
    compare: Callable[..., tuple[int, str]],
) -> None:
    assert compare("only-one")[0] == 3
    assert compare("a", "b", "--unknown")[0] == 3


def test_summary_of_a_job_is_markdown_and_json_says_the_same(
    file: File,
    compare: Callable[..., tuple[int, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    summary = tmp_path / "summary.md"
    monkeypatch.setenv(SUMMARY, str(summary))
    pair = file(RIGHT), file(flipped(30, 2), recipe="int8_row")
    code, shown = compare(*pair, "--format=github")
    assert (code, summary.read_text(encoding="utf-8")) == (1, shown)
    assert shown.startswith("### Comparison: worse\n")
    as_json = json.loads(compare(*pair, "--format=json")[1])
    (found,) = as_json["comparisons"]
    assert as_json["decision"] == found["decision"] == "worse"
    assert found["difference, 95 % interval"].startswith("-2.8 pp")
    assert "-2.8 pp" in shown


@pytest.mark.parametrize("form", ["text", "github", "json"])
def test_a_name_in_a_record_cannot_write_lines_or_move_the_cursor(
    file: File,
    compare: Callable[..., tuple[int, str]],
    form: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(SUMMARY, str(tmp_path / "summary.md"))
    hostile = "a\n::error::b\x1b[2Jc\u202ed|e"
    path = file(RIGHT, recipe="int8_row")
    stored = json.loads(path.read_text(encoding="utf-8"))
    stored["recipe"] = hostile
    stored["quant"]["name"] = hostile
    path.write_text(json.dumps(stored), encoding="utf-8")
    code, shown = compare(file(RIGHT), path, f"--format={form}")
    assert code == 2, shown
    assert not any(line.lstrip().startswith("::") for line in shown.splitlines())
    assert not {"\x1b", "\u202e"} & set(shown) or form == "json"
    if form == "json":
        assert hostile.split("\n")[0] in json.loads(shown)["comparisons"][0]["candidate"]
