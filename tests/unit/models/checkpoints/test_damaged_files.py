"""Every file of a model folder, damaged in every way: one line that names the file.

Files that a text model does not need may be anything: the model loads.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from harness.errors import HarnessError, ModelError
from harness.models.loaded import LoadedModel
from harness.models.sources.gguf import GgufModel
from harness.models.sources.pretrained import LocalModel

CPU = torch.device("cpu")
CONTENTS: Mapping[str, bytes] = {
    "empty": b"",
    "binary": bytes(range(256)) * 4,
    "zeros": b"\0" * 4096,
    "invalid JSON": b"{",
    "JSON with a rest": b"{} x",
    "nested too deeply": b'{"a":' * 100_000,
    "a list nested too deeply": b"[" * 100_000,
    "an integer of 5,000 digits": b'{"a": ' + b"9" * 5000 + b"}",
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "a list": b"[]",
    "a text": b'"x"',
    "a number": b"5",
    "null": b"null",
}
LINKS = {"a folder": None, "a link to nowhere": "nowhere", "a link to itself": ""}
"""What may stand in the place of a file; the text is what a link leads to."""


@pytest.fixture
def folder(tiny: LoadedModel, tmp_path: Path) -> Path:
    """The tiny model in two files, as save_pretrained writes it."""
    folder = tmp_path / "model"
    tiny.module.save_pretrained(folder, max_shard_size="100KB")
    tiny.tokenizer.save_pretrained(folder)
    return folder


def load(folder: Path) -> LoadedModel:
    return LocalModel(path=str(folder), dtype="float32").load(CPU)


def told(folder: Path) -> str:
    """Return what a user is told of a folder: one line."""
    with pytest.raises(HarnessError) as caught:
        load(folder)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 700
    return text


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "generation_config.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "tokenizer.json",
        "added_tokens.json",
        "hf_quant_config.json",
        "model.safetensors.index.json",
        "model-00001-of-00002.safetensors",
    ],
)
def test_damaged_file_is_named(folder: Path, name: str) -> None:
    shards = sorted(file.name for file in folder.glob("model-*"))
    file = folder / (shards[0] if name.startswith("model-") else name)
    for damage, content in CONTENTS.items():
        file.write_bytes(content)
        assert file.name in told(folder), damage


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "chat_template.jinja"])
@pytest.mark.parametrize("instead", LINKS)
def test_what_is_no_file_is_named(folder: Path, name: str, instead: str) -> None:
    file, target = folder / name, LINKS[instead]
    file.unlink(missing_ok=True)
    if target is None:
        file.mkdir()
    else:
        file.symlink_to(target or file.name)
    assert name in told(folder)


@pytest.mark.parametrize("name", ["preprocessor_config.json", "quantize_config.json", "notes.md"])
def test_file_that_a_text_model_does_not_need_may_be_anything(folder: Path, name: str) -> None:
    for content in CONTENTS.values():
        (folder / name).write_bytes(content)
        assert load(folder).module is not None


@pytest.mark.parametrize("value", ["x", -1, [], {}, [1]], ids=lambda value: repr(value)[:9])
def test_setting_of_another_type_is_no_traceback(folder: Path, value: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    for key in ("hidden_size", "num_hidden_layers", "vocab_size", "model_type"):
        (folder / "config.json").write_text(json.dumps(config | {key: value}))
        assert "model" in told(folder)


@pytest.mark.parametrize("damage", ["empty", "binary", "zeros", "a list"])
def test_file_that_is_no_gguf_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "model.gguf"
    for prefix in (b"", b"GGUF"):
        file.write_bytes(prefix + CONTENTS[damage])
        with pytest.raises(ModelError) as caught:
            GgufModel(path=str(file)).load(CPU)
        assert "model.gguf" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_folder_that_may_not_be_read_is_called_so(tiny: LoadedModel, unprivileged: Path) -> None:
    folder = unprivileged / "model"
    tiny.module.save_pretrained(folder)
    tiny.tokenizer.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0)
    assert "Permission denied" in told(folder)
    assert "No such file" not in told(folder)
