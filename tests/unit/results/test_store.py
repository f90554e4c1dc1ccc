"""The store: whole files or none, whatever happens while they are written."""

import hashlib
import json
import math
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from builders import record
from hypothesis import example, given
from hypothesis import strategies as st

from harness.errors import OutputError, ResultError
from harness.results.record import RunRecord, SampleScore, Status
from harness.results.store import (
    ResultStore,
    Stored,
    next_attempt,
    read,
    read_samples,
    safe_name,
)

HOSTILE = [
    "../../x",
    "a/b",
    "",
    ".hidden",
    "..",
    "n" * 300,
    "🦙 модель",
    "a\\b",
    "c:\0d\n",
    "~",
    "-rf",
]


PLACE = {"task": "perplexity", "model": "tiny", "recipe": "int8_row"}


@pytest.fixture
def store(tmp_path: Path) -> ResultStore:
    return ResultStore(root=tmp_path / "results")


def filed(store: ResultStore, whole: RunRecord) -> Path:
    path = store.path(whole, task="perplexity", model="tiny", recipe="int8_row")
    store.write(path, whole)
    return path


# Records


def test_record_read_is_the_record_written(store: ResultStore) -> None:
    whole = record()
    path = filed(store, whole)
    assert path == store.root / "perplexity" / "tiny" / f"int8_row--{whole.run_id}.json"
    assert read(path) == whole
    assert store.load() == ([Stored(path=path, record=whole)], [])
    assert json.loads(path.read_text())["metrics"][0]["value"] == 7.0625


def test_truncated_file_is_never_a_record(store: ResultStore) -> None:
    whole = record()
    path = filed(store, whole)
    content = path.read_bytes()
    lengths = {*range(0, len(content), 7), *range(len(content) - 5, len(content))}
    for length in sorted(lengths):
        path.write_bytes(content[:length])
        if content[length:].strip() == b"":  # only white space is missing
            assert read(path) == whole
            continue
        with pytest.raises(ResultError, match=r"must be a whole record.*delete the file") as caught:
            read(path)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"null", b"[]", b"{}", b"\xff\xfe\x00", b"\0" * 4096])
def test_file_that_is_no_record_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(ResultError, match="must be a whole record"):
        read(path)


def test_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="must be readable"):
        read(tmp_path / "missing.json")
    with pytest.raises(ResultError, match="must be readable"):
        read(tmp_path)


def test_load_names_the_broken_files_and_returns_the_others(store: ResultStore) -> None:
    good = filed(store, record())
    broken = good.with_name("int8_row--torn.json")
    broken.write_bytes(good.read_bytes()[:100])
    foreign = good.with_name("notes.json")
    foreign.write_text('{"hello": 1}')
    stored, problems = store.load()
    assert [item.path for item in stored] == [good]
    assert len(problems) == 2
    assert any(str(broken) in problem for problem in problems)
    assert any(str(foreign) in problem for problem in problems)


def test_load_reads_no_folder_but_its_own(store: ResultStore) -> None:
    good = filed(store, record())
    study = ResultStore(root=store.root / "study")
    filed(study, record(command="of the study"))
    for stray in (store.root / "top.json", store.root / "perplexity" / "side.json"):
        stray.write_text("{}")
    stored, problems = store.load()
    assert [item.path for item in stored] == [good]
    assert problems == []
    assert [item.record.command for item in study.load()[0]] == ["of the study"]


def test_load_of_a_folder_that_is_not_there_is_empty(store: ResultStore) -> None:
    assert store.load() == ([], [])
    assert store.find("0" * 64, **PLACE) == ([], [])


def test_load_is_sorted_by_time(store: ResultStore) -> None:
    first = record()
    later = [
        record(run_id=f"0123456789ab-{name}", created=first.created + timedelta(seconds=s))
        for name, s in (("z", 1), ("a", 2), ("m", 3))
    ]
    for each in (later[2], later[0], first, later[1]):
        filed(store, each)
    assert [item.record for item in store.load()[0]] == [first, *later]


def test_records_of_one_configuration_are_sorted_by_their_count_and_older_ones_come_first(
    store: ResultStore,
) -> None:
    first = record()
    # Hours after the first record, and how often the configuration had been run.
    wanted = [("old", 5, None), ("older", 9, None), ("one", 2, 1), ("two", 0, 2), ("three", 7, 3)]
    known = []
    for name, hours, attempt in reversed(wanted):
        whole = record(
            run_id=f"{first.config_hash[:12]}-{name}",
            created=first.created + timedelta(hours=hours),
            attempt=attempt,
        )
        known.append(Stored(path=filed(store, whole), record=whole))
    names = [name for name, _, _ in wanted]
    for found in (store.load()[0], store.find(first.config_hash, **PLACE)[0]):
        assert [item.record.run_id.rpartition("-")[2] for item in found] == names
    assert next_attempt(known) == 4
    assert next_attempt(known[-2:]) == 1, "records without a count"
    assert next_attempt([]) == 1


def test_find_compares_the_whole_hash(store: ResultStore) -> None:
    mine = record()
    filed(store, mine)
    same_start = mine.config_hash[:-1] + "f"
    other = {"config_hash": same_start, "config": {"task": {"window": 65}}}
    filed(store, record(run_id="0123456789ab-other", **other))
    torn = store.root / "perplexity" / "tiny" / "int8_row--0123456789ab-torn.json"
    torn.write_text("{")
    found, [problem] = store.find(mine.config_hash, **PLACE)
    assert [item.record for item in found] == [mine]
    assert str(torn) in problem
    assert store.find("f" * 64, **PLACE)[0] == []


def test_find_returns_records_of_another_name_or_folder(store: ResultStore) -> None:
    # A recipe that was renamed, and the folder of a model that a user renamed.
    mine = record(run_id=f"{'c' * 12}-1", config_hash="c" * 64)
    for number, name in enumerate(("int8_row_mine", "int8_row")):
        other = mine.model_copy(update={"run_id": f"{'c' * 12}-{number}", "attempt": number + 1})
        store.write(store.path(other, task="perplexity", model=f"m{number}", recipe=name), other)
    found, _ = store.find(mine.config_hash, **PLACE)
    assert [item.record.attempt for item in found] == [1, 2]


def test_close_abandoned_marks_running_records_and_no_others(store: ResultStore) -> None:
    for number, status in enumerate(Status):
        filed(store, record(status=status, run_id=f"0123456789ab-{number}", error="as it was"))
    before = {item.record.run_id: item.record for item in store.load()[0]}
    store.close_abandoned(store.load()[0])
    for item in store.load()[0]:
        old = before[item.record.run_id]
        if old.status is Status.RUNNING:
            assert item.record.status is Status.ERROR
            assert "without closing the record" in str(item.record.error)
        else:
            assert item.record == old


# Writing; tests/unit/output has what a writer must do


def test_nan_in_a_free_field_is_refused_not_written_as_null(store: ResultStore) -> None:
    # Where a field takes anything, NaN must not turn into null, which means "not given" there.
    with pytest.raises((ResultError, ValueError)):
        filed(store, record(config={"seed": math.nan}))
    assert list(store.root.rglob("*.json")) == []


def test_root_under_a_regular_file_is_refused(tmp_path: Path) -> None:
    blocker = tmp_path / "blocker"
    blocker.write_text("")
    for root in (blocker, blocker / "results"):
        store = ResultStore(root=root)
        with pytest.raises(OutputError, match=r"results_dir must be a folder.*name another"):
            filed(store, record())
        with (
            pytest.raises(OutputError, match=r"results_dir must be a folder.*name another"),
            store.hold("0" * 64),
        ):
            pass
        assert store.load() == ([], [])


# Samples


def samples() -> list[SampleScore]:
    nll = tuple(np.random.default_rng(0).exponential(3, 63).tolist())
    return [
        SampleScore(id="w/0", cluster="0", scores={"nll": math.fsum(nll)}, token_nll=nll),
        SampleScore(id="w/1", cluster="1", scores={"nll": 0.1}, token_nll=nll[:5]),
    ]


def test_samples_read_are_the_samples_written(store: ResultStore) -> None:
    path = filed(store, record())
    name, sha256 = store.write_samples(path, samples())
    assert name == f"{path.stem}.samples.parquet"
    assert hashlib.sha256(path.with_name(name).read_bytes()).hexdigest() == sha256
    whole = record(samples_file=name, samples_sha256=sha256)
    frame = read_samples(Stored(path=path, record=whole))
    assert list(frame.columns) == ["id", "cluster", "nll", "token_nll"]
    assert frame["id"].tolist() == ["w/0", "w/1"]
    assert frame["nll"].tolist() == [sample.scores["nll"] for sample in samples()]
    for row, sample in zip(frame["token_nll"], samples(), strict=True):
        assert row.dtype == np.float64
        assert np.abs(row - sample.token_nll).max() <= 2**-27
        assert np.abs(row - sample.token_nll).max() > 1e-9, "rounded, so that files stay small"


def test_answers_and_letter_scores_become_columns(store: ResultStore) -> None:
    path = filed(store, record())
    asked = [
        SampleScore(id=f"q/{i}", cluster="virology", scores={"A": -i, "B": -0.5}, answer=letter)
        for i, letter in enumerate("BA")
    ]
    name, sha256 = store.write_samples(path, asked)
    whole = record(samples_file=name, samples_sha256=sha256)
    frame = read_samples(Stored(path=path, record=whole))
    assert frame.to_dict("records") == [
        {"id": "q/0", "cluster": "virology", "answer": "B", "A": 0.0, "B": -0.5},
        {"id": "q/1", "cluster": "virology", "answer": "A", "A": -1.0, "B": -0.5},
    ]


def test_samples_of_another_run_are_refused(store: ResultStore) -> None:
    path = filed(store, record())
    name, sha256 = store.write_samples(path, samples())
    stored = Stored(path=path, record=record(samples_file=name, samples_sha256=sha256))
    store.write_samples(path, samples()[:1])
    with pytest.raises(ResultError, match="SHA-256"):
        read_samples(stored)
    path.with_name(name).unlink()
    with pytest.raises(ResultError, match="repeat the run"):
        read_samples(stored)
    with pytest.raises(ResultError, match="must have a samples file"):
        read_samples(Stored(path=path, record=record()))


# Names


@given(st.text(max_size=200))
@example("n" * 300)
@example("..")
@example("." * 90 + "a")
@example("é" * 90)
def test_safe_name_fits_every_path(name: str) -> None:
    safe = safe_name(name)
    assert safe
    assert len(safe) <= 80
    assert not safe.startswith(".")
    assert set(safe) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
    assert safe_name(safe) == safe


@given(st.from_regex(r"[a-z][A-Za-z0-9._-]{0,79}", fullmatch=True))
def test_safe_name_leaves_plain_names_alone(name: str) -> None:
    assert safe_name(name) == name


@pytest.mark.parametrize("name", HOSTILE)
def test_path_stays_inside_the_root_and_can_be_written(name: str, store: ResultStore) -> None:
    whole = record()
    path = store.path(whole, task=name, model=name, recipe=name)
    assert path.resolve().relative_to(store.root.resolve()).parts[:-1] == path.parts[-3:-1]
    assert len(path.name.encode()) <= 255
    store.write(path, whole)
    assert [item.path for item in store.load()[0]] == [path]
    found, _ = store.find(whole.config_hash, task=name, model=name, recipe=name)
    assert [item.path for item in found] == [path]
