"""The command lines of the documentation, typed as they stand there."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from repository import ROOT

from harness.claims.at_once import NO_BASELINE
from harness.results.record import RunRecord, Status

Cli = Callable[..., subprocess.CompletedProcess[str]]
Records = Callable[[Path], list[RunRecord]]
TINY = ("model=tiny", "data=embedded")
SMALL_TASKS = {
    "small_perplexity": "defaults: [perplexity, _self_]\nwindow: 64\nlimit_windows: 12\n",
    "small_mmlu": "defaults: [mmlu, _self_]\nlimit: 4\n",
    "too_many": "defaults: [mmlu, _self_]\nlimit: 9999\n",
}


def test_both_spellings_are_one_run_from_any_folder_and_no_secret_is_kept(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path, records: Records
) -> None:
    results, elsewhere = tmp_path / "results", tmp_path / "else where"
    elsewhere.mkdir()
    job = ("task=mmlu", *TINY, "task.limit=4")
    typed = ("+quant=int8_row", *job, f"results_dir={results}")
    secret = "hf_ThisIsASecret"  # noqa: S105 - it is not
    first = start(*typed, HF_TOKEN=secret)
    out, errors = first.communicate(timeout=120)
    assert first.returncode == 0, errors
    assert "Traceback" not in errors
    [record] = records(results)
    assert record.status is Status.OK
    assert record.command == " ".join(["python -m harness", *typed])
    assert (record.metrics[0].name, record.metrics[0].n) == ("accuracy", 4)
    headline, compared, *_ = out.splitlines()
    assert headline.startswith("int8_row mmlu: accuracy ")
    assert compared == NO_BASELINE
    for file in tmp_path.rglob("*"):
        assert file.is_dir() or secret.encode() not in file.read_bytes(), file

    second = start("quant=int8_row", *job, "results_dir=../results", cwd=elsewhere)
    out, errors = second.communicate(timeout=120)
    assert second.returncode == 0, errors
    assert "already on file, skipped" in out
    assert records(results) == [record]
    assert list(elsewhere.iterdir()) == []


def test_without_a_recipe_the_float_baseline_is_measured(
    cli: Cli, tmp_path: Path, records: Records
) -> None:
    done = cli(*TINY, "task.window=64", "task.limit_windows=12")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("none perplexity: perplexity ")
    [record] = records(tmp_path / "results")
    assert record.quant is not None
    assert (record.quant.kind, record.quant.num_quantized, record.quant.layers) == ("none", 0, ())
    assert record.quant.bits_per_weight == 32, "float32"


def test_sweep_goes_on_after_a_failure_and_ends_with_a_summary(
    cli: Cli, tmp_path: Path, records: Records
) -> None:
    own = tmp_path / "own" / "task"
    own.mkdir(parents=True)
    for name, text in SMALL_TASKS.items():
        (own / f"{name}.yaml").write_text(text)
    command = (
        *("--config-dir", str(own.parent), "-m", "+quant=none,int8_row,fp8_row"),
        *("task=small_perplexity,too_many,small_mmlu", *TINY),
    )
    done = cli(*command)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    filed = records(tmp_path / "results")
    recipes = ("none", "int8_row", "fp8_row")
    good = [r for r in filed if r.status is Status.OK]
    assert sorted((r.task.name, r.quant.name) for r in good if r.task and r.quant) == sorted(
        (task, recipe) for task in ("mmlu", "perplexity") for recipe in recipes
    )
    failed = [r for r in filed if r.status is not Status.OK]
    assert [r.status for r in failed] == [Status.ERROR] * 3
    assert all("task.limit must be at most" in str(r.error) for r in failed)
    assert done.stdout.count("; done: ") == 6
    recipes_compared = [line for line in done.stdout.splitlines() if "from baseline" in line]
    assert len(recipes_compared) == 4, "each recipe of each task, as soon as it ends"
    _, found, summary = done.stderr.partition("9 jobs, 3 failed")
    assert found
    rows = [line for line in summary.splitlines() if "+quant=" in line]
    assert len(rows) == 9
    assert all(("too_many" in row) == ("FAILED" in row) for row in rows)
    assert summary.count("ConfigError: task.limit must be at most") == 3

    again = cli(*command)
    assert again.returncode == 1
    assert again.stdout.count("already on file, skipped") == 6
    assert len([r for r in records(tmp_path / "results") if r.status is Status.OK]) == 6


def test_sweep_over_group_sizes_gives_a_record_each(
    cli: Cli, tmp_path: Path, records: Records
) -> None:
    typed = (
        *("-m", "+quant=int8_group,fp8_group", "quant.group_size=16,32", "task=mmlu"),
        *(*TINY, "task.limit=4"),
    )
    done = cli(*typed)
    assert done.returncode == 0, done.stderr
    assert "4 jobs, none failed" in done.stderr
    filed = records(tmp_path / "results")
    names = {"int8_g16", "int8_g32", "fp8_g16", "fp8_g32"}
    assert {r.quant.name for r in filed if r.quant} == names
    assert len({r.config_hash for r in filed}) == len(filed) == 4
    files = (tmp_path / "results" / "mmlu" / "tiny").glob("*.json")
    assert {file.name.partition("--")[0] for file in files} == names
    for record in filed:
        assert record.command == " ".join(["python -m harness", *typed]), "as it was typed"
        assert record.quant is not None
        _, _, size = record.quant.name.partition("_g")
        # Rows of 48 and 80: 16 divides both, 32 neither. A scale is a float32.
        assert {layer.short_tail for layer in record.quant.layers} == {size == "32"}
        exact = record.quant.bits_per_weight == 8 + 32 / int(size)
        assert exact == (size == "16")


@pytest.mark.parametrize(
    ("arguments", "key", "legal"),
    [
        (["task=mmlu", "task.limt=3"], "task.limt", ["shots", "limit", "subjects", "task.limit?"]),
        (["quant=int8_rwo"], "int8_rwo", ["int8_row", "fp8_group", "none"]),
        (["+experiment=nope"], "nope", ["granularity"]),
        (["task=mmul"], "mmul", ["mmlu", "perplexity", "mmlu_generate"]),
        (["force=maybe"], "maybe", ["true or false"]),
        (["+typo=1"], "typo", ["model", "task", "quant", "results_dir"]),
        (["+quant.foo=1"], "quant.foo", ["name", "rules", "skip", "group_size", "backend"]),
        (["task=mmlu", "task.limit=abc"], "task.limit", ["integer", "null", "'abc'"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_mistake_is_answered_with_what_is_legal(
    arguments: list[str], key: str, legal: list[str], cli: Cli, tmp_path: Path
) -> None:
    done = cli(*TINY, *arguments)
    assert done.returncode == 1
    assert key in done.stderr
    missing = [name for name in legal if name not in done.stderr]
    assert missing == [], done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert list(tmp_path.rglob("*.json")) == []


def test_help_lists_every_option_without_importing_torch(cli: Cli, tmp_path: Path) -> None:
    conf = ROOT / "conf"
    done = cli("--help", timeout=30, cold=True)
    assert done.returncode == 0
    assert done.stderr == ""
    for group in ("model", "data", "task", "quant", "experiment"):
        line = next(line for line in done.stdout.splitlines() if line.startswith(f"{group}: "))
        named = line.removeprefix(f"{group}: ").split(", ")
        assert sorted(named) == sorted(file.stem for file in (conf / group).glob("*.yaml"))
    assert "anchors: " not in done.stdout, "published figures are no option of a run"
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_closes_the_pipe_of_a_help_page_is_no_error(
    start: Callable[..., subprocess.Popen[str]],
) -> None:
    process = start("--help", cold=True)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    assert process.wait(timeout=60) == 0


def test_data_that_is_nowhere_gives_one_error_that_says_where_it_was_sought(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path, records: Records
) -> None:
    child = start("model=tiny", "data=hub", without="HARNESS_DATA", HF_HOME=str(tmp_path / "home"))
    out, errors = child.communicate(timeout=120)
    assert child.returncode == 1
    assert out == ""
    assert "Traceback" not in errors
    assert errors.count("DataError") == 1
    tried = ("Salesforce/wikitext", "HARNESS_DATA: not set", "local hub cache:", "hub:")
    ways = ("data.path=FOLDER", "set HARNESS_DATA", "connect to the hub")
    for words in (*tried, *ways):
        assert words in errors
    assert [r.status for r in records(tmp_path / "results")] == [Status.ERROR]


def test_results_under_a_regular_file_are_refused_before_anything_is_loaded(
    cli: Cli, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    # A model that is not there: loading it would be another error.
    done = cli("model=local", "model.path=/nowhere", "data=embedded", "results_dir=file/results")
    assert done.returncode == 1
    assert "results_dir must be a folder that can be written" in done.stderr
    assert "file/results" in done.stderr
    assert "nowhere" not in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "file").read_text() == ""
