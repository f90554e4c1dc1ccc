"""Folders of weights: what loads, and what is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from harness.errors import ModelError
from harness.models.checkpoints import folder as checkpoint
from harness.models.loaded import LoadedModel
from harness.models.sources.pretrained import HubModel, LocalModel

CPU = torch.device("cpu")
IDS = torch.arange(32)[None]


def load(folder: Path) -> LoadedModel:
    return LocalModel(path=str(folder), dtype="float32").load(CPU)


def logits(loaded: LoadedModel) -> torch.Tensor:
    with torch.inference_mode():
        return loaded.module(IDS).logits


def test_saved_model_has_the_same_logits(tiny: LoadedModel, folder: Path) -> None:
    loaded = load(folder)
    assert torch.equal(logits(loaded), logits(tiny))
    assert loaded.tokenizer("Answer: B")["input_ids"] == tiny.tokenizer("Answer: B")["input_ids"]
    assert loaded.name == "local"
    assert not loaded.module.training
    assert not any(parameter.requires_grad for parameter in loaded.module.parameters())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_weights_have_the_type_that_was_asked_for(folder: Path, dtype: str) -> None:
    loaded = LocalModel(path=str(folder), dtype=dtype).load(CPU)
    assert {str(p.dtype) for p in loaded.module.parameters()} == {f"torch.{dtype}"}
    assert str(loaded.dtype) == f"torch.{dtype}"


def test_float16_that_cannot_hold_a_weight_is_refused_for_that_reason(folder: Path) -> None:
    file, name = folder / "model.safetensors", "model.layers.0.mlp.down_proj.weight"
    tensors = load_file(file)
    tensors[name][0, 0] = 65520  # the smallest number that float16 rounds to infinity
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=rf"at most 65,504 .* larger one in {name}.*=bfloat16"):
        LocalModel(path=str(folder), dtype="float16").load(CPU)
    assert load(folder).module.model.layers[0].mlp.down_proj.weight[0, 0] == 65520


def test_pickled_weights_are_never_read(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="pickled weights are never loaded"):
        load(folder)


def test_missing_config_is_named(folder: Path) -> None:
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match=r"has no config\.json"):
        load(folder)


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model\.path must be a folder, got '.*nowhere'"):
        LocalModel(path=str(tmp_path / "nowhere")).load(CPU)


def split(folder: Path) -> list[Path]:
    """Cut the weights into two shards with an index, and return the shards."""
    whole = folder / "model.safetensors"
    weights = load_file(whole)
    whole.unlink()
    names = sorted(weights)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, keys in shards.items():
        save_file({key: weights[key] for key in keys}, folder / file, metadata={"format": "pt"})
    index = {"weight_map": {key: file for file, keys in shards.items() for key in keys}}
    text = json.dumps({"metadata": {"total_size": 0}, **index})
    (folder / "model.safetensors.index.json").write_text(text, encoding="utf-8")
    return [folder / file for file in shards]


def test_shards_load_like_the_whole(tiny: LoadedModel, folder: Path) -> None:
    split(folder)
    assert torch.equal(logits(load(folder)), logits(tiny))


def test_missing_shard_is_named(folder: Path) -> None:
    split(folder)[1].unlink()
    with pytest.raises(ModelError, match=r"b\.safetensors"):
        load(folder)


def test_folder_without_every_shard_is_passed_over_for_the_next_place(
    tiny: LoadedModel, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "data" / "owner" / "name"
    broken.mkdir(parents=True)
    for file in folder.glob("*.*"):
        (broken / file.name).write_bytes(file.read_bytes())
    split(broken)[0].unlink()
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path / "data"))
    monkeypatch.setattr("harness.hub_files._download", lambda repository, offline: str(folder))
    loaded = HubModel(repo="owner/name", dtype="float32").load(CPU)
    assert loaded.revision == folder.name
    assert torch.equal(logits(loaded), logits(tiny))


def drop_a_tensor(folder: Path) -> None:
    file = folder / "model.safetensors"
    weights = load_file(file)
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, file, metadata={"format": "pt"})


def reshape_a_tensor(folder: Path) -> None:
    file = folder / "model.safetensors"
    weights = load_file(file)
    weights["model.layers.1.mlp.up_proj.weight"] = torch.zeros(7, 48)
    save_file(weights, file, metadata={"format": "pt"})


def cut_the_file_off(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def spoil_the_index(folder: Path) -> None:
    split(folder)
    (folder / "model.safetensors.index.json").write_text("{", encoding="utf-8")


def spoil_the_config(folder: Path) -> None:
    (folder / "config.json").write_text("{", encoding="utf-8")


def spoil_the_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{", encoding="utf-8")


def claim_to_be_quantized(folder: Path) -> None:
    file = folder / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4, "group_size": 128}
    file.write_text(json.dumps(config), encoding="utf-8")


def need_code_of_its_own(folder: Path) -> None:
    file = folder / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    config |= {"model_type": "of_its_own", "auto_map": {"AutoConfig": "code.OwnConfig"}}
    file.write_text(json.dumps(config), encoding="utf-8")


@pytest.mark.parametrize(
    "damage",
    [
        drop_a_tensor,
        reshape_a_tensor,
        cut_the_file_off,
        spoil_the_index,
        spoil_the_config,
        spoil_the_tokenizer,
        claim_to_be_quantized,
        need_code_of_its_own,
    ],
)
def test_damaged_folder_is_a_model_error(folder: Path, damage: Callable[[Path], None]) -> None:
    damage(folder)
    with pytest.raises(ModelError, match=str(folder)):
        load(folder)


def test_fingerprint_is_the_same_for_a_copy(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in folder.glob("*.*"):
        (copy / file.name).write_bytes(file.read_bytes())
    first, second = (LocalModel(path=str(path)).fingerprint() for path in (folder, copy))
    assert first == second
    assert len(first) == 64


@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "tokenizer.json", "merges.txt", "tokenizer.model"]
)
def test_fingerprint_changes_with_weights_config_and_tokenizer(folder: Path, name: str) -> None:
    (folder / "merges.txt").write_text("a b\n", encoding="utf-8")
    (folder / "tokenizer.model").write_bytes(b"1")
    before = LocalModel(path=str(folder)).fingerprint()
    file = folder / name
    file.write_bytes(file.read_bytes() + b" ")
    assert LocalModel(path=str(folder)).fingerprint() != before


def test_record_of_a_folder_that_was_replaced_has_its_own_fingerprint(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "SETTLED_NS", 0)
    other, link = tmp_path / "other", tmp_path / "link"
    shutil.copytree(folder, other)
    tensors = load_file(other / "model.safetensors")
    save_file(
        {name: 2 * t for name, t in tensors.items()}, other / "model.safetensors", {"format": "pt"}
    )
    expected = [LocalModel(path=str(each)).fingerprint() for each in (folder, other)]
    for source in (LocalModel(path=str(link)), HubModel(repo="owner/name", path=str(link))):
        found = []
        for target in (folder, other):
            link.unlink(missing_ok=True)
            link.symlink_to(target)
            found.append(source.load(CPU).fingerprint)
        assert found == expected
    shutil.copy(other / "model.safetensors", tmp_path / "new")
    (tmp_path / "new").replace(folder / "model.safetensors")
    assert LocalModel(path=str(folder)).load(CPU).fingerprint == expected[1] != expected[0]


def test_file_is_hashed_once_unless_it_has_just_changed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = folder / "model.safetensors"
    read: list[Path] = []
    monkeypatch.setattr(checkpoint, "_digest", lambda file: read.append(file) or "0" * 64)
    for age, reads in ((10**18, 2), (0, 1)):
        monkeypatch.setattr(checkpoint, "SETTLED_NS", age)
        read.clear()
        checkpoint.sha256_file(file)
        checkpoint.sha256_file(file)
        assert len(read) == reads


def test_hub_model_loads_from_an_explicit_folder(tiny: LoadedModel, folder: Path) -> None:
    source = HubModel(repo="owner/name", path=str(folder), dtype="float32")
    loaded = source.load(CPU)
    assert torch.equal(logits(loaded), logits(tiny))
    # Nothing says that the folder holds owner/name.
    assert loaded.name == source.name == folder.name
    assert loaded.origin == "float checkpoint, from a folder given by the user"
    assert loaded.revision is None
    assert not loaded.warnings
    assert loaded.fingerprint == source.fingerprint() == checkpoint.folder_fingerprint(folder)


@pytest.mark.parametrize("place", ["path", "environment"])
def test_revision_that_a_folder_cannot_show_is_warned_of(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path / "data"))
    path = str(folder) if place == "path" else None
    if path is None:
        (tmp_path / "data" / "owner").mkdir(parents=True)
        (tmp_path / "data" / "owner" / "tagged").symlink_to(folder)
    loaded = HubModel(repo="owner/tagged", path=path, revision="v2", dtype="float32").load(CPU)
    assert loaded.revision is None
    assert [w for w in loaded.warnings if "model.revision is v2" in w]


def test_hub_model_of_the_cache_keeps_the_commit(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = tmp_path / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    for file in folder.glob("*.*"):
        (snapshot / file.name).write_bytes(file.read_bytes())
    monkeypatch.delenv("HARNESS_DATA", raising=False)
    monkeypatch.setattr("harness.hub_files._download", lambda repository, offline: str(snapshot))
    loaded = HubModel(repo="owner/name", dtype="float32").load(CPU)
    assert loaded.revision == loaded.fingerprint == "0123abcd"


@pytest.mark.parametrize(("trusted", "asked"), [(False, False), (True, True)])
def test_code_is_downloaded_only_when_trusted(
    folder: Path, monkeypatch: pytest.MonkeyPatch, trusted: bool, asked: bool
) -> None:
    patterns: list[str] = []

    def download(repository: object, *, offline: bool) -> str:
        patterns.extend(repository.patterns)
        return str(folder)

    monkeypatch.delenv("HARNESS_DATA", raising=False)
    monkeypatch.setattr("harness.hub_files._download", download)
    HubModel(repo="owner/other", trust_remote_code=trusted).fingerprint()
    assert ("*.py" in patterns) is asked
    assert "*.bin" not in patterns
