"""Documents for perplexities on file: the same text, checked by its hashes, and nothing but intervals changes."""

import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from script_modules import load_script

from harness import config
from harness.config import CONF
from harness.models import cache
from harness.results.store import ResultStore, Stored, encoded, read_samples
from harness.runner.run import RunSpec, run

PROTOCOLS = {
    "perplexity": "task.window=48",
    "perplexity_llama_cpp": "task.window=48",
    "perplexity_documents": "task.limit_documents=7",
}
Aged = Callable[..., tuple[ResultStore, Stored, Stored]]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("add_documents")


@pytest.fixture(autouse=True)
def _no_model_held() -> Iterator[None]:
    cache._held.clear()
    yield
    cache._held.clear()


def pages(folder: Path) -> Path:
    file = folder / "pages.jsonl"
    words = "a mill stood by the river and nobody had ground corn there since spring "
    rows = [{"text": f"{i} {(words * 4)[7 * i : 150 + 31 * i]}"} for i in range(9)]
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return file


@pytest.fixture
def aged(tmp_path: Path) -> Aged:
    """Return a run as it is filed now, and the same as it was filed when windows were independent."""

    def make(task: str = "perplexity") -> tuple[ResultStore, Stored, Stored]:
        config.register()
        overrides = [
            *("model=tiny", "data=text", "device=cpu", f"task={task}", PROTOCOLS[task]),
            *(f"data.path={pages(tmp_path)}", f"results_dir={tmp_path / 'results'}"),
        ]
        with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
            composed = compose("config", overrides=overrides)
        run(RunSpec.build(config.resolve(composed)))
        store = ResultStore(root=tmp_path / "results")
        ((now,), _) = store.load()
        assert now.record.task is not None
        frame = read_samples(now).drop(columns="token_document")
        frame["cluster"] = [str(index) for index in range(len(frame))]
        content = encoded(frame)
        now.path.with_name(str(now.record.samples_file)).write_bytes(content)
        data = {k: v for k, v in now.record.task.data.items() if k != "num_documents"}
        old = now.record.model_copy(
            update={
                "task": now.record.task.model_copy(update={"version": 1, "data": data}),
                "metrics": tuple(
                    m.model_copy(update={"ci95": m.value and (m.value, m.value), "note": None})
                    for m in now.record.metrics
                ),
                "samples_sha256": hashlib.sha256(content).hexdigest(),
            }
        )
        store.write(now.path, old)
        # A field that older records do not have.
        fields = json.loads(now.path.read_text())
        del fields["peak_memory"]
        now.path.write_text(json.dumps(fields))
        return store, now, Stored(path=now.path, record=old)

    return make


def call(script: ModuleType, monkeypatch: pytest.MonkeyPatch, store: ResultStore) -> int:
    monkeypatch.setattr(sys, "argv", ["add_documents.py", str(store.root)])
    with pytest.raises(SystemExit) as ended:
        script.main()
    return int(str(ended.value.code))


@pytest.mark.parametrize("task", PROTOCOLS)
def test_record_becomes_what_a_run_would_file_now(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, aged: Aged, task: str
) -> None:
    store, now, old = aged(task)
    before = read_samples(old)
    assert call(script, monkeypatch, store) == 0
    ((found,), problems) = store.load()
    assert not problems
    for metric, known, aged_one in zip(
        found.record.metrics, now.record.metrics, old.record.metrics, strict=True
    ):
        assert metric.value == aged_one.value
        assert (metric.ci95 is None) == (known.ci95 is None)
        if known.ci95 is not None:
            # Token NLLs are on file within 7.5e-9.
            assert metric.ci95 == pytest.approx(known.ci95, rel=1e-6)
        assert metric.note == known.note
    assert any(metric.ci95 for metric in found.record.metrics)
    assert found.record.task is not None
    assert now.record.task is not None
    assert found.record.task.data == now.record.task.data
    assert any("scripts/add_documents.py" in warning for warning in found.record.warnings)
    assert "peak_memory" not in json.loads(found.path.read_text())
    frame = read_samples(found)
    for column in ("id", "nll", "num_tokens"):
        assert frame[column].equals(before[column])
    for own, other in zip(frame["token_nll"], before["token_nll"], strict=True):
        assert own.dtype == other.dtype
        assert np.array_equal(own, other)


def test_second_call_touches_nothing(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, aged: Aged
) -> None:
    store, _, _ = aged()
    assert call(script, monkeypatch, store) == 0
    files = {file: file.read_bytes() for file in store.root.rglob("*.*") if file.is_file()}
    assert call(script, monkeypatch, store) == 0
    again = {file: file.read_bytes() for file in store.root.rglob("*.*") if file.is_file()}
    assert again == files


def test_call_that_was_cut_off_is_completed_by_the_next_one(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, aged: Aged
) -> None:
    store, _, old = aged()
    monkeypatch.setattr(Path, "replace", cut_off(Path.replace))
    with pytest.raises(KeyboardInterrupt):
        call(script, monkeypatch, store)
    monkeypatch.undo()
    assert call(script, monkeypatch, store) == 0
    ((found,), _) = store.load()
    assert "token_document" in read_samples(found)
    assert found.record.metrics[0].ci95 != old.record.metrics[0].ci95
    assert not list(store.root.rglob("*.new"))


def cut_off(original: Callable[[Path, Path], Path]) -> Callable[[Path, Path], Path]:
    def replace(self: Path, target: Path) -> Path:
        if self.name.endswith(".new"):
            raise KeyboardInterrupt
        return original(self, target)

    return replace


@pytest.mark.parametrize("change", ["text", "documents", "value"])
def test_other_text_or_other_items_are_refused_and_left_alone(
    script: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    aged: Aged,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: str,
) -> None:
    store, _, old = aged()
    record = old.record
    if change == "text":
        file = tmp_path / "pages.jsonl"
        file.write_text(file.read_text().replace("mill", "barn"))
    elif change == "documents":
        assert record.task is not None
        data = {**record.task.data, "token_ids_sha256": "other"}
        record = record.model_copy(update={"task": record.task.model_copy(update={"data": data})})
    else:
        other = record.metrics[0].model_copy(update={"value": 1.0})
        record = record.model_copy(update={"metrics": (other, *record.metrics[1:])})
    store.write(old.path, record)
    written = old.path.read_bytes()
    capsys.readouterr()  # the run above logs to standard error where a test before has set logging up
    assert call(script, monkeypatch, store) == 1
    (line,) = capsys.readouterr().err.splitlines()
    reason = {"text": "text_sha256", "documents": "token_ids_sha256", "value": "perplexity"}[change]
    assert f"{reason} must be" in line
    assert line.endswith("repeat the run")
    assert old.path.read_bytes() == written
    assert read_samples(Stored(path=old.path, record=record)) is not None
