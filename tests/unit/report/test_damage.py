"""A report is never lost to one bad file: records of the tiny model, damaged in many ways.

Each case damages one of three records. The report must be written, show the others, name the
damaged file and say what to do; the exit code must be 1. No number may come from the damaged file.
"""

import hashlib
import io
import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hydra import compose, initialize_config_dir

from harness import config
from harness.config import CONF
from harness.models import cache
from harness.report import __main__ as report
from harness.report.intake import take_in
from harness.results import damage
from harness.results.record import CalibrationInfo, RunRecord
from harness.results.store import read
from harness.runner.run import RunSpec, run

VICTIM = "int8_row"
FIRST = "Left out: files that cannot be used"


@dataclass(frozen=True, kw_only=True)
class Victim:
    """The record that a case damages, and its samples."""

    path: Path
    samples: Path
    other_samples: Path

    def change(self, **fields: Any) -> None:
        """Replace fields of the record."""
        record = json.loads(self.path.read_text())
        self.path.write_text(json.dumps({**record, **fields}))

    def edit(self, change: Callable[[dict[str, Any]], object]) -> None:
        """Change the record in place."""
        record = json.loads(self.path.read_text())
        change(record)
        self.path.write_text(json.dumps(record))

    def with_samples(self, content: bytes) -> None:
        """Replace the samples, and the hash in the record with them."""
        self.samples.write_bytes(content)
        self.change(samples_sha256=hashlib.sha256(content).hexdigest())

    def items(self) -> pd.DataFrame:
        return pd.read_parquet(self.samples)

    def with_items(self, frame: pd.DataFrame) -> None:
        self.with_samples(frame.to_parquet(index=False))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records of the tiny model: a baseline and two recipes."""
    root = tmp_path_factory.mktemp("real") / "results"
    for recipe in ("none", VICTIM, "int4_g64"):
        run(spec_of(root, f"+quant={recipe}"))
    cache._held.clear()
    return root


def spec_of(root: Path, *overrides: str) -> RunSpec:
    config.register()
    common = ["model=tiny", "data=embedded", "device=cpu", "task=perplexity", f"results_dir={root}"]
    small = ["task.window=64", "task.limit_windows=12"]
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return RunSpec.build(
            config.resolve(compose("config", overrides=[*common, *small, *overrides]))
        )


@pytest.fixture
def copied(results: Path, tmp_path: Path) -> Path:
    return shutil.copytree(results, tmp_path / "results")


@pytest.fixture
def victim(copied: Path) -> Victim:
    (path,) = copied.rglob(f"{VICTIM}--*.json")
    (other,) = copied.rglob("int4_g64--*.json")
    samples = ".samples.parquet"
    return Victim(
        path=path, samples=path.with_suffix(samples), other_samples=other.with_suffix(samples)
    )


def reported(root: Path, out: Path) -> tuple[int, str, str]:
    """Return exit code, report and standard error of the command."""
    written, errors = io.StringIO(), io.StringIO()
    before, sys.argv = sys.argv, ["report", str(root), "--out", str(out), "--name", "r"]
    code = 0
    try:
        with redirect_stdout(written), redirect_stderr(errors):
            report.main()
    except SystemExit as reason:
        code = int(reason.code or 0)
    finally:
        sys.argv = before
    path = out / "r.md"
    return code, path.read_text(encoding="utf-8") if path.exists() else "", errors.getvalue()


def replaced_by_folder(v: Victim) -> None:
    v.path.unlink()
    v.path.mkdir()


def replaced_by_loop(v: Victim) -> None:
    v.path.unlink()
    v.path.symlink_to(v.path.name)


def replaced_by_pipe(v: Victim) -> None:
    v.path.unlink()
    os.mkfifo(v.path)


def replaced_by_device(v: Victim) -> None:
    v.path.unlink()
    v.path.symlink_to("/dev/zero")


def replaced_by_loop_of_samples(v: Victim) -> None:
    v.samples.unlink()
    v.samples.symlink_to(v.samples.name)


def replaced_by_folder_of_samples(v: Victim) -> None:
    v.samples.unlink()
    v.samples.mkdir()


def without(*keys: str) -> Callable[[Victim], None]:
    """Delete a key of the record, given by its path."""

    def damaging(v: Victim) -> None:
        def change(record: dict[str, Any]) -> None:
            node = record
            for key in keys[:-1]:
                node = node[key]
            del node[keys[-1]]

        v.edit(change)

    return damaging


def huge(v: Victim) -> None:
    with v.path.open("ab") as stream:
        stream.truncate(damage.MOST_RECORD_BYTES + 1)


def flipped(v: Victim) -> None:
    content = bytearray(v.samples.read_bytes())
    content[len(content) // 2] ^= 1
    v.samples.write_bytes(content)


DAMAGE: Mapping[str, tuple[Callable[[Victim], object], str]] = {
    # the record: its text
    "empty": (lambda v: v.path.write_bytes(b""), "must be a whole record"),
    "binary": (lambda v: v.path.write_bytes(bytes(range(256)) * 40), "must be a whole record"),
    "utf-16": (
        lambda v: v.path.write_bytes(v.path.read_text().encode("utf-16")),
        "must be a whole record",
    ),
    "cut in half": (lambda v: os.truncate(v.path, 5000), "delete the file and repeat the run"),
    "a list": (
        lambda v: v.path.write_text("[1, 2]"),
        "JSON that is not a record; move it elsewhere",
    ),
    "foreign json": (
        lambda v: v.path.write_text('{"name": "x"}'),
        "JSON that is not a record; move it elsewhere",
    ),
    "deep json": (lambda v: v.path.write_text("[" * 100_000), "must be a whole record"),
    "huge": (huge, "must have at most 67,108,864 bytes"),
    "NaN": (
        lambda v: v.path.write_text(
            v.path.read_text().replace('"duration_s": ', '"duration_s": NaN', 1)
        ),
        "must be a whole record",
    ),
    # the record: what lies in its place
    "a folder": (replaced_by_folder, "must be readable, got a folder"),
    "a symlink loop": (replaced_by_loop, "must be readable, got: Too many levels"),
    "a pipe": (replaced_by_pipe, "must be readable, got a pipe or a device"),
    "a device": (replaced_by_device, "must be readable, got a pipe or a device"),
    # the record: its fields
    "newer schema": (lambda v: v.change(schema_version=2), "schema version 2, of which this"),
    "newer field": (lambda v: v.change(speed=1), "the unknown field speed; if a newer version"),
    "unknown status": (lambda v: v.change(status="great"), "status:"),
    "empty config": (lambda v: v.change(config={}), "must have all that a report reads"),
    "config of null": (
        lambda v: v.change(config={"model": None, "task": None, "quant": None}),
        "must have all that a report reads",
    ),
    "config without task": (without("config", "task"), "must have all that a report reads"),
    "data without name": (without("task", "data", "name"), "must have all that a report reads"),
    "no metrics": (lambda v: v.change(metrics=[]), "must have metrics, got none"),
    "no model": (lambda v: v.change(model=None), "must have model, quant and task"),
    "size of nothing": (
        lambda v: v.edit(lambda r: r["model"].update(float_bytes=0)),
        "must have all that a report reads",
    ),
    "n that is not there": (
        lambda v: v.edit(lambda r: r["metrics"][0].update(n=10**9)),
        "must have the 1,000,000,000 tokens of perplexity on file",
    ),
    "negative n": (lambda v: v.edit(lambda r: r["metrics"][0].update(n=-1)), "must have the -1"),
    # the samples
    "no samples named": (
        lambda v: v.change(samples_file=None, samples_sha256=None),
        "must have a samples file beside it, got a record without one",
    ),
    "samples elsewhere": (
        lambda v: v.change(samples_file="../../x.parquet"),
        "got the name ../../x",
    ),
    "samples without name": (
        lambda v: v.change(samples_file=""),
        "must have a samples file beside it",
    ),
    "samples with a null in the name": (
        lambda v: v.change(samples_file=f"{v.path.stem}\0"),
        "must be readable, got: embedded null",
    ),
    "samples gone": (lambda v: v.samples.unlink(), "No such file or directory"),
    "samples empty": (lambda v: v.samples.write_bytes(b""), "must have the SHA-256 in its record"),
    "samples altered by a bit": (flipped, "must have the SHA-256 in its record"),
    "samples swapped": (
        lambda v: shutil.copy(v.other_samples, v.samples),
        "must have the SHA-256 in its record",
    ),
    "samples without hash": (lambda v: v.change(samples_sha256=None), "must have the SHA-256"),
    "samples a folder": (replaced_by_folder_of_samples, "must be readable, got a folder"),
    "samples a loop": (replaced_by_loop_of_samples, "must be readable, got: Too many levels"),
    "samples no parquet": (lambda v: v.with_samples(b"PAR1 or not"), "must be a parquet file"),
    "items fewer": (lambda v: v.with_items(v.items().iloc[:-1]), "tokens of perplexity on file"),
    "items twice": (
        lambda v: v.with_items(pd.concat([v.items(), v.items()])),
        "must have an id for each sample, got some twice",
    ),
    "items without id": (
        lambda v: v.with_items(v.items().drop(columns="id")),
        "must have an id and",
    ),
    "items without numbers": (
        lambda v: v.with_items(v.items().assign(num_tokens="many")),
        "must have an id and numbers for each sample",
    ),
    "items renamed": (
        lambda v: v.with_items(v.items().assign(id=lambda f: f["id"] + "?")),
        "must have the samples of the other runs",
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_one_bad_file_costs_the_report_that_file_alone(
    case: str, victim: Victim, copied: Path, tmp_path: Path
) -> None:
    damaging, expected = DAMAGE[case]
    damaging(victim)
    code, text, errors = reported(copied, tmp_path / "out")
    assert code == 1
    assert errors.count("\n") == 1, "one line for one file"
    assert errors.startswith("left out: ")
    assert expected in errors
    assert victim.path.stem in errors
    assert text.count(f"## {FIRST}") == 1
    first = text.split("\n## ")[2]
    assert first.startswith(FIRST)
    rest = text.removeprefix(text.split("\n## ")[0]).replace(first, "")
    assert "| baseline" in rest
    assert "| `int4_g64`" in rest
    assert "| `int8_row` " not in rest, "no number of the damaged record"
    assert "section of the report is missing" not in text


def test_whole_records_make_a_report_without_complaints(copied: Path, tmp_path: Path) -> None:
    code, text, errors = reported(copied, tmp_path / "out")
    assert (code, errors) == (0, "")
    assert FIRST not in text
    assert "| `int8_row` " in text


def test_file_without_permission_is_named(
    victim: Victim, copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.read_bytes

    def refuse(path: Path) -> bytes:
        if path.name == victim.path.name:
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)  # root may read everything
    code, text, errors = reported(copied, tmp_path / "out")
    assert code == 1
    assert "must be readable, got: Permission denied" in errors
    assert "| `int4_g64`" in text


def test_copy_of_a_record_is_named_and_the_run_is_shown_once(
    victim: Victim, copied: Path, tmp_path: Path
) -> None:
    shutil.copy(victim.path, victim.path.with_name("a copy.json"))
    code, text, errors = reported(copied, tmp_path / "out")
    assert code == 1
    assert "a copy.json must be the only file of run" in errors
    ranking = text.partition("## Ranking")[2].partition("\n## ")[0]
    assert ranking.count("| `int8_row` ") == 1


def test_name_that_is_no_utf8_is_listed(victim: Victim, copied: Path, tmp_path: Path) -> None:
    Path(os.fsdecode(bytes(victim.path.parent) + b"/\xff.json")).write_text("{}")
    code, text, _ = reported(copied, tmp_path / "out")
    assert code == 1
    assert r"\\udcff.json" in text


def test_two_runs_of_one_configuration_are_no_damage_and_the_latest_counts(
    victim: Victim, copied: Path, tmp_path: Path
) -> None:
    record = json.loads(victim.path.read_text())
    later = {"run_id": f"{record['run_id']}1", "created": "2099-01-01T00:00:00Z"}
    record["metrics"][0]["value"] = 1234.5
    path = victim.path.with_name(f"int8_row--{later['run_id']}.json")
    path.write_text(json.dumps({**record, **later}))
    code, text, _ = reported(copied, tmp_path / "out")
    assert code == 0
    assert text.count("1234.5000") == 1
    # Its items are lost: the run before it counts again, and the loss is named.
    path.write_text(json.dumps({**record, **later, "samples_sha256": "0" * 64}))
    code, text, errors = reported(copied, tmp_path / "out")
    assert code == 1
    assert "must have the SHA-256" in errors
    assert "1234.5" not in text
    assert "| `int8_row` " in text


def fitted_to(record: RunRecord, text: str) -> RunRecord:
    """Return a record whose recipe is fitted to a text."""
    info = CalibrationInfo(text=text, sha256="ab" * 32, num_sequences=4, length=8, seed=1)
    assert record.quant is not None
    quant = record.quant.model_copy(update={"calibration": info})
    return record.model_copy(update={"quant": quant})


@pytest.mark.parametrize(
    ("task", "cpus", "texts", "is_shown"),
    [
        ("mmlu", ("a", "a"), ("x", "x"), False),
        ("mmlu", ("a", "b"), ("x", "x"), False),
        ("mmlu", ("a", "a"), ("x", "y"), True),
        ("throughput", ("a", "a"), ("x", "x"), False),
        ("throughput", ("a", "b"), ("x", "x"), True),
    ],
)
def test_items_of_each_run_that_is_shown_are_checked(
    make_record: Callable[..., RunRecord],
    file_records: Callable[..., Path],
    task: str,
    cpus: Sequence[str],
    texts: Sequence[str],
    *,
    is_shown: bool,
) -> None:
    older, newer = (
        fitted_to(make_record("r", task=task, cpu=cpu, config_hash="h"), text)
        for cpu, text in zip(cpus, texts, strict=True)
    )
    root = file_records(older, newer)
    [lost] = root.rglob(f"*{older.run_id}.samples.parquet")
    lost.unlink()
    problems = take_in(root).problems
    assert [str(lost) in problem for problem in problems] == [True] * is_shown


def test_task_that_is_not_known_is_shown_as_a_ranking(
    victim: Victim, copied: Path, tmp_path: Path
) -> None:
    victim.edit(lambda record: record["task"].update(name="arithmetic", protocol="of tomorrow"))
    code, text, _ = reported(copied, tmp_path / "out")
    assert code == 0
    assert "## Ranking against the baseline: arithmetic of tiny" in text


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.with_suffix(".samples.parquet").unlink(),
        lambda path: path.with_suffix(".samples.parquet").write_bytes(b"other"),
    ],
    ids=["gone", "altered"],
)
def test_run_whose_samples_are_lost_is_measured_again(
    spoil: Callable[[Path], object],
    victim: Victim,
    copied: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    spec = spec_of(copied, f"+quant={VICTIM}")
    assert run(spec).skipped
    spoil(victim.path)
    caplog.clear()
    again = run(spec)
    (line,) = [r.getMessage() for r in caplog.records if "measured again" in r.getMessage()]
    assert victim.samples.name in line
    assert "\n" not in line
    assert not again.skipped
    assert again.path != victim.path
    assert read(again.path).metrics == read(victim.path).metrics
    assert run(spec).skipped, "the new run is on file"


def test_report_without_any_usable_record_says_why(
    victim: Victim, copied: Path, tmp_path: Path
) -> None:
    for path in copied.rglob("*.parquet"):
        path.unlink()
    code, text, errors = reported(copied, tmp_path / "out")
    assert (code, text) == (1, "")
    assert errors.startswith("the folder must hold records with a result")
    assert errors.count("No such file or directory") == 3
    assert "Traceback" not in errors


# Folders


def many(folder: Path) -> None:
    place = folder / "task" / "model"
    place.mkdir(parents=True)
    for number in range(5000):
        (place / f"{number}.json").write_text('{"a": 1}')


@pytest.mark.parametrize(
    ("make", "expected", "lines"),
    [
        (lambda _f: None, "No such file or directory", 1),
        (lambda f: f.mkdir(), "got none in", 1),
        (lambda f: f.write_text("{}"), "Not a directory", 1),
        (many, "and 4,950 more", 52),
    ],
    ids=["missing", "empty", "a file", "5,000 files that are no records"],
)
def test_folder_without_records_is_one_error(
    make: Callable[[Path], object], expected: str, lines: int, tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    make(folder)
    code, text, errors = reported(folder, tmp_path / "out")
    assert (code, text) == (1, "")
    assert expected in errors
    assert errors.count("\n") == lines
    assert errors.startswith("the folder must hold records with a result as <task>/<model>/*.json")
    assert "run `python -m harness` first, or name another folder" in errors


@pytest.mark.parametrize("levels", [-2, -1, 1, 2])
def test_records_at_another_depth_are_pointed_to(levels: int, copied: Path, tmp_path: Path) -> None:
    if levels < 0:
        (asked,) = copied.glob("/".join(["[!.]*"] * -levels))
    else:
        asked = tmp_path.joinpath(*"ab"[:levels])
        asked.mkdir(parents=True)
        copied = Path(shutil.move(copied, asked / "results"))
        asked = tmp_path / "a"
    code, _, errors = reported(asked, tmp_path / "out")
    assert code == 1
    assert f"name one of those with records: {copied}\n" in errors
    assert reported(copied, tmp_path / "out")[0] == 0


def test_foreign_files_beside_records_do_not_hide_them(copied: Path, tmp_path: Path) -> None:
    many(copied)
    code, text, errors = reported(copied, tmp_path / "out")
    assert code == 1
    assert errors.count("\n") == 51
    assert "| baseline" in text
    assert len(text) < 40_000
