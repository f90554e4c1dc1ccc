"""Models and data sets of a hub that speaks the real one's protocol, on loopback: whole, broken off, refused, offline."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hub_server import Hub, commit_of, serve
from huggingface_hub import constants, file_download
from hydra import compose, initialize_config_dir

from harness import config
from harness.config import CONF
from harness.data import hub as hub_data
from harness.data.hub import HubData
from harness.errors import DataError, ModelError
from harness.models import cache
from harness.models.sources import pretrained as hub_models
from harness.models.sources.pretrained import HubModel
from harness.models.sources.tiny import TinyModel
from harness.results.record import Status
from harness.results.store import ResultStore, read
from harness.runner.run import RunSpec, run

CPU = torch.device("cpu")
WEIGHTS = "model.safetensors"
TINY = HubModel(repo="tests/tiny", dtype="float32")
COMMIT = commit_of("models/tests/tiny")
TEXT = ["", "one row\n", "and another\n"]


def files_of(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.*")}


@pytest.fixture(scope="session")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    root = tmp_path_factory.mktemp("repositories")
    loaded = TinyModel().load(CPU)
    loaded.module.save_pretrained(root / "tiny")
    loaded.tokenizer.save_pretrained(root / "tiny")
    (root / "tiny" / "pytorch_model.bin").write_bytes(b"a pickle")
    (root / "wikitext" / "wikitext-2-raw-v1").mkdir(parents=True)
    for split in ("test", "train"):
        file = root / "wikitext" / "wikitext-2-raw-v1" / f"{split}-00000-of-00001.parquet"
        pq.write_table(pa.table({"text": TEXT}), file)
    return {
        "models/tests/tiny": files_of(root / "tiny"),
        "datasets/Salesforce/wikitext": files_of(root / "wikitext"),
    }


@pytest.fixture
def hub(
    repositories: dict[str, dict[str, bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Hub]:
    """A hub on loopback, an empty cache, and no other place to look."""
    monkeypatch.delenv("HARNESS_DATA", raising=False)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 2**12)
    monkeypatch.setattr(file_download.time, "sleep", lambda _: None)  # between attempts
    hub_models._locate_model.cache_clear()
    hub_data._wikitext.cache_clear()
    hub_data._mmlu.cache_clear()
    with serve(Hub(repositories)) as served:
        template = served.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", served.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield served
    hub_models._locate_model.cache_clear()
    hub_data._wikitext.cache_clear()
    hub_data._mmlu.cache_clear()
    cache._held.clear()


def found() -> Path:
    """Find the model as a new process does, without what an earlier call found."""
    hub_models._locate_model.cache_clear()
    return TINY._locate().folder


def content(folder: Path) -> dict[str, bytes]:
    return files_of(folder) if folder.is_dir() else {}


def snapshot(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "models--tests--tiny" / "snapshots" / COMMIT


def test_whole_model_is_downloaded_once_and_has_the_commit(hub: Hub) -> None:
    loaded = TINY.load(CPU)
    assert loaded.revision == loaded.fingerprint == COMMIT
    ids = torch.arange(3, 23)[None]
    with torch.no_grad():
        assert torch.equal(loaded.module(ids).logits, TinyModel().load(CPU).module(ids).logits)
    stored = content(found())
    expected = dict(hub.repositories["models/tests/tiny"])
    assert expected.pop("pytorch_model.bin")
    assert stored == expected, "everything but the pickle, byte for byte"
    asked = len(hub.asked)
    assert found().name == COMMIT
    assert len(hub.asked) == asked, "what is whole in the cache needs no hub"


def test_weights_that_are_not_the_model_are_not_downloaded(hub: Hub) -> None:
    files = hub.repositories["models/tests/tiny"]
    names = ("consolidated.safetensors", "consolidated-00001-of-2.safetensors")
    foreign = dict.fromkeys((*names, "adapter_model.safetensors"), files[WEIGHTS])
    hub.repositories = {**hub.repositories, "models/tests/tiny": files | foreign}
    stored = content(found())
    assert WEIGHTS in stored
    assert not foreign.keys() & stored.keys()


@pytest.mark.parametrize("revision", ["v1", COMMIT])
def test_revision_is_a_tag_or_a_commit(hub: Hub, revision: str) -> None:
    assert HubModel(repo="tests/tiny", revision=revision).fingerprint() == COMMIT


def test_file_that_breaks_off_is_resumed_where_it_was(hub: Hub) -> None:
    hub.cuts[WEIGHTS] = [50_000, 30_000]
    assert content(found())[WEIGHTS] == hub.repositories["models/tests/tiny"][WEIGHTS]
    first, second, third = hub.gets(WEIGHTS)
    starts = [
        int(str(r).removeprefix("bytes=").rstrip("-").partition("-")[0]) for r in (second, third)
    ]
    assert first is None
    # Whole pieces of 4096 bytes are written.
    assert starts == [50_000 // 4096 * 4096, (50_000 // 4096 + 30_000 // 4096) * 4096]


def test_download_that_is_given_up_is_finished_by_the_next_command(
    hub: Hub, tmp_path: Path
) -> None:
    hub.cuts[WEIGHTS] = [50_000] + [0] * 20
    with pytest.raises(ModelError, match="hub: peer closed connection") as caught:
        found()
    assert "\n" not in str(caught.value).partition("hub: ")[2].partition("\nDo one")[0]
    assert not (snapshot(tmp_path) / WEIGHTS).exists(), "half a file is never in its place"
    hub.cuts.clear()
    hub.asked.clear()
    assert content(found())[WEIGHTS] == hub.repositories["models/tests/tiny"][WEIGHTS]
    assert hub.gets("tokenizer.json") == [], "what was whole is not fetched again"
    assert hub.gets(WEIGHTS) == [None]


@pytest.mark.parametrize("name", [WEIGHTS, "config.json"])
def test_file_of_another_size_than_stated_is_refused(hub: Hub, tmp_path: Path, name: str) -> None:
    hub.sizes[name] = 77
    size = len(hub.repositories["models/tests/tiny"][name])
    with pytest.raises(ModelError, match=f"hub: .*should be of size 77 but has size {size}"):
        found()
    assert not (snapshot(tmp_path) / name).exists()
    hub.sizes.clear()
    assert name in content(found())


def test_missing_token_is_said_and_a_token_is_used(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.token = "hf_of_the_test"  # noqa: S105 - of a server in this file
    with pytest.raises(ModelError, match=r"hub: .*set HF_TOKEN to a token that may read it"):
        found()
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert found().name == COMMIT


def test_unknown_revision_and_unknown_name_are_told_apart(hub: Hub) -> None:
    with pytest.raises(ModelError, match="hub: the repository has no branch, tag or commit 'v9'"):
        HubModel(repo="tests/tiny", revision="v9").fingerprint()
    with pytest.raises(ModelError, match="hub: there is no model of this name, or it is private"):
        HubModel(repo="tests/none").fingerprint()


def test_name_that_is_none_is_one_error(hub: Hub) -> None:
    with pytest.raises(ModelError, match=r"must be OWNER/NAME in letters.*got 'a/b/c'"):
        HubModel(repo="a/b/c").fingerprint()


def test_offline_takes_a_complete_cache(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    found()
    hub.asked.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert found().name == COMMIT
    assert hub.asked == []


@pytest.mark.parametrize("name", [WEIGHTS, "tokenizer.json"])
def test_offline_refuses_an_incomplete_cache_and_the_hub_completes_it(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    found()
    (snapshot(tmp_path) / name).unlink()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError) as caught:
        found()
    message = str(caught.value)
    assert f"is incomplete: 1 file(s) are missing ({name})" in message
    assert "hub: HF_HUB_OFFLINE is set" in message
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert name in content(found())


def test_hub_that_is_down_is_one_error(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ModelError, match=r"hub: .*ConnectError"):
        found()


def test_data_set_is_downloaded_as_far_as_it_is_needed(hub: Hub) -> None:
    text = HubData(wikitext_revision="v1").text()
    assert text.text == "\n\n".join(TEXT)
    assert text.revision == commit_of("datasets/Salesforce/wikitext")
    assert len(hub.gets("test-00000-of-00001.parquet")) == 1
    assert hub.gets("train-00000-of-00001.parquet") == []


def test_data_set_broken_off_and_unknown_revision(hub: Hub) -> None:
    hub.cuts["wikitext-2-raw-v1/test-00000-of-00001.parquet"] = [100] + [0] * 20
    with pytest.raises(DataError, match="hub: peer closed connection"):
        HubData().text()
    hub.cuts.clear()
    assert HubData().text().num_rows == len(TEXT)
    with pytest.raises(DataError, match="has no branch, tag or commit 'v9'"):
        HubData(wikitext_revision="v9").text()
    with pytest.raises(DataError, match="there is no dataset of this name"):
        HubData().questions()


def test_quantized_repository_is_compared_with_its_float_one(hub: Hub, tmp_path: Path) -> None:
    from harness.export import command
    from harness.export.command import resolve
    from harness.export.job import run as export

    def composed(name: str, *overrides: str) -> dict[str, object]:
        with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
            cfg = compose(name, overrides=["data=embedded", "device=cpu", *overrides])
            return config.resolve(cfg) if name == "config" else resolve(cfg)

    config.register()
    command.register()
    model = ("model=hub", "model.repo=tests/tiny", "model.dtype=float32")
    recipe = ("+quant=int4_g64", "quant.group_size=16")
    out = tmp_path / "int4"
    export(composed("export", *model, *recipe, f"out={out}"))
    hub.repositories = hub.repositories | {"models/tests/int4": files_of(out)}
    task = ("task=divergence", "task.window=64", "task.limit_windows=2")
    results = f"results_dir={tmp_path / 'results'}"
    baseline = ("+model@model.baseline=hub", "model.baseline.repo=tests/tiny")
    beside = (
        *("model=hub", "model.repo=tests/int4", "model.revision=v1", "model.dtype=float32"),
        *(*baseline, "model.baseline.dtype=float32"),
    )
    record = read(run(RunSpec.build(composed("config", *beside, *task, results))).path)
    own = read(run(RunSpec.build(composed("config", *model, *recipe, *task, results))).path)
    assert record.baseline is not None
    assert record.model is not None
    assert (record.model.name, record.model.revision) == (
        "tests/int4",
        commit_of("models/tests/int4"),
    )
    assert (record.baseline.name, record.baseline.revision) == ("tests/tiny", COMMIT)
    assert record.metrics[0].value == pytest.approx(own.metrics[0].value, rel=1e-5)
    assert own.metrics[0].value
    assert own.metrics[0].value > 0.1


def test_command_downloads_measures_and_files(hub: Hub, tmp_path: Path) -> None:
    ask = ("data=embedded", "task=perplexity", "task.window=64", "task.limit_windows=2")
    kept = {k: v for k, v in os.environ.items() if k != "HF_HUB_OFFLINE"}
    own = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, "-m", "harness", "model=hub", "model.repo=tests/tiny", *ask],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=kept | own,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Fetching" not in done.stderr, "no progress bars in a log file"
    stored, problems = ResultStore(root=tmp_path / "results").load()
    assert not problems
    (record,) = (item.record for item in stored)
    assert record.status is Status.OK
    assert record.model is not None
    assert (record.model.name, record.model.revision) == ("tests/tiny", COMMIT)
    assert record.model.architecture == "LlamaForCausalLM"
