"""Which files of a folder are the model: files beside them do not count, none lies outside."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from harness.errors import ModelError
from harness.models.checkpoints import folder as checkpoint
from harness.models.checkpoints.folder import folder_fingerprint
from harness.models.checkpoints.folder_files import missing_files, weight_files
from harness.models.loaded import LoadedModel
from harness.models.sources.config_only import load_weightless
from harness.models.sources.pretrained import LocalModel

CPU = torch.device("cpu")
IDS = torch.arange(32)[None]
CODES = "model.layers.0.mlp.up_proj"


def load(folder: Path) -> LoadedModel:
    return LocalModel(path=str(folder), dtype="float32").load(CPU)


def logits(loaded: LoadedModel) -> torch.Tensor:
    with torch.inference_mode():
        return loaded.module(IDS).logits


def change_json(file: Path, **changes: object) -> None:
    content = json.loads(file.read_text(encoding="utf-8")) | changes
    file.write_text(json.dumps(content), encoding="utf-8")


def split(folder: Path, *names: str) -> None:
    """Deal the weights out to files with an index."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    places = {key: names[i % len(names)] for i, key in enumerate(sorted(weights))}
    for name in names:
        part = {key: weights[key] for key, place in places.items() if place == name}
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        save_file(part, folder / name, metadata={"format": "pt"})
    text = json.dumps({"metadata": {"total_size": 0}, "weight_map": places})
    (folder / "model.safetensors.index.json").write_text(text, encoding="utf-8")


def add_foreign_files(folder: Path) -> None:
    """Put the same weights in another layout, an adapter and a head beside the model."""
    weights = load_file(next(iter(weight_files(folder))))
    for name in ("consolidated", "adapter_model", "mtp"):
        tensors = {f"{name}.{key}": torch.ones(7, 9) for key in weights}
        save_file(tensors, folder / f"{name}.safetensors", metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {"mtp.a": "mtp.safetensors"}}
    (folder / "consolidated.safetensors.index.json").write_text(json.dumps(index), "utf-8")


def gptq(folder: Path) -> torch.Tensor:
    """Store one weight as 8-bit GPTQ codes, one group a channel; return it as `[N, K]`."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    outputs, inputs = tensors.pop(f"{CODES}.weight").shape
    codes = torch.randint(0, 256, (inputs, outputs), generator=torch.Generator().manual_seed(0))
    scales = torch.full((1, outputs), 2.0**-9, dtype=torch.float16)
    shifts = torch.arange(4)[None, :, None] * 8
    words = (codes.view(inputs // 4, 4, outputs) << shifts).sum(1)
    zeros = torch.full((1, outputs // 4), 0x7F7F7F7F)
    tensors |= {
        f"{CODES}.qweight": torch.where(words >= 2**31, words - 2**32, words).int(),
        f"{CODES}.qzeros": zeros.int(),
        f"{CODES}.scales": scales,
    }
    save_file(tensors, file, metadata={"format": "pt"})
    settings = {"quant_method": "gptq", "bits": 8, "group_size": -1, "sym": True}
    change_json(folder / "config.json", quantization_config=settings)
    return (codes - 128).T * 2.0**-9


def test_quantized_model_is_what_it_is_without_the_files_beside_it(folder: Path) -> None:
    expected = gptq(folder)
    tensors = load_file(folder / "model.safetensors")
    alone = load(folder)
    assert torch.equal(alone.module.get_submodule(CODES).weight, expected.float())
    add_foreign_files(folder)
    beside = load(folder)
    assert torch.equal(logits(beside), logits(alone))
    assert beside.fingerprint == alone.fingerprint
    assert beside.prequantized == alone.prequantized
    assert beside.prequantized is not None
    assert beside.prequantized.file_bytes == sum(tensor.nbytes for tensor in tensors.values())
    # 8 bits a code, and for each of the 80 channels of 48 a scale of 16 and a zero point of 8 bits.
    assert beside.prequantized.bits_per_weight == 8 + (16 + 8) / 48
    assert beside.warnings == ()


def test_weight_that_a_quantized_model_has_twice_is_refused(folder: Path) -> None:
    gptq(folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["norm.weight"] = tensors["model.norm.weight"] + 1
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"two tensors for 1: norm\.weight"):
        load(folder)


def test_float_model_is_what_it_is_without_the_files_beside_it(folder: Path) -> None:
    alone = load(folder)
    add_foreign_files(folder)
    beside = load(folder)
    assert torch.equal(logits(beside), logits(alone))
    assert beside.fingerprint == alone.fingerprint
    assert load_weightless(folder, dtype="float32").fingerprint == alone.fingerprint


def test_fingerprint_of_a_plain_folder_is_that_of_all_its_files(folder: Path) -> None:
    """Records on file were found by this hash."""
    split(folder, "a.safetensors", "b.safetensors")
    patterns = ("*.safetensors", "*.json", "*.model", "*.txt", "*.jinja", "*.py")
    files = sorted(file for pattern in patterns for file in folder.glob(pattern))
    lines = (f"{f.name}:{hashlib.sha256(f.read_bytes()).hexdigest()}\n" for f in files)
    assert folder_fingerprint(folder) == hashlib.sha256("".join(lines).encode()).hexdigest()


def test_one_file_comes_before_an_index_as_in_transformers(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    expected = logits(load(folder))
    split(folder, "a.safetensors", "b.safetensors")
    assert [file.name for file in weight_files(folder)] == ["a.safetensors", "b.safetensors"]
    (folder / "a.safetensors").write_bytes(b"damaged")
    (folder / "model.safetensors").write_bytes(whole)
    assert [file.name for file in weight_files(folder)] == ["model.safetensors"]
    assert torch.equal(logits(load(folder)), expected)


def test_file_that_the_config_names_comes_first(folder: Path) -> None:
    expected = logits(load(folder))
    (folder / "model.safetensors").rename(folder / "own.safetensors")
    save_file({"a": torch.zeros(1)}, folder / "model.safetensors", metadata={"format": "pt"})
    change_json(folder / "config.json", transformers_weights="own.safetensors")
    assert torch.equal(logits(load(folder)), expected)


def test_shards_may_lie_deeper_and_be_links(folder: Path, tmp_path: Path) -> None:
    """Files of a hub snapshot are links to blobs outside of it."""
    expected = logits(load(folder))
    split(folder, "parts/a.safetensors", "b.safetensors")
    blob = tmp_path / "blob"
    (folder / "b.safetensors").rename(blob)
    (folder / "b.safetensors").symlink_to(blob)
    assert torch.equal(logits(load(folder)), expected)


@pytest.mark.parametrize("name", ["../x.safetensors", "a/../../x.safetensors", "{}/x.safetensors"])
def test_index_may_not_lead_out_of_the_folder(folder: Path, tmp_path: Path, name: str) -> None:
    outside = name.format(tmp_path)
    (folder / "a").mkdir()
    split(folder, "x.safetensors")
    (folder / "x.safetensors").rename(tmp_path / "x.safetensors")
    index = {"metadata": {}, "weight_map": {"model.norm.weight": outside}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(ModelError, match="outside of the folder"):
        load(folder)


def test_index_may_not_name_pickled_weights(folder: Path) -> None:
    split(folder, "a.safetensors")
    (folder / "a.bin").write_bytes(b"")
    index = {"metadata": {}, "weight_map": {"model.norm.weight": "a.bin"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(ModelError, match=r"'a\.bin' in .*pickled weights are never loaded"):
        load(folder)


def test_distributed_checkpoint_is_refused(folder: Path) -> None:
    (folder / "shard-00000-model-00001-of-00001.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match="distributed checkpoint"):
        load(folder)


def test_other_safetensors_files_make_no_model(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "consolidated.safetensors")
    assert "has neither model.safetensors nor" in str(missing_files(folder))


def test_folder_of_an_adapter_alone_says_so(folder: Path) -> None:
    for file in (folder / "config.json", folder / "model.safetensors"):
        file.unlink()
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}', encoding="utf-8")
    save_file({"a": torch.zeros(1)}, folder / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=r"only a LoRA adapter .*merge_and_unload"):
        load(folder)


def write(name: str, text: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).write_text(text, encoding="utf-8")

    return change


def config(**changes: object) -> Callable[[Path], None]:
    return lambda folder: change_json(folder / "config.json", **changes)


def remove_the_tokenizer(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (write("config.json", "[1]"), r"config\.json that must hold an object, got a list"),
        (write("config.json", "{"), r"damaged config\.json"),
        (config(quantization_config="awq"), "quantization_config must be .* got 'awq'"),
        (config(quantization_config={}), "quantization_config must be .* got {}"),
        (
            config(quantization_config={"quant_method": None}),
            "must be an object with a quant_method",
        ),
        (
            config(text_config={"quantization_config": "x"}),
            "quantization_config must be .* got 'x'",
        ),
        (config(model_type=None), "model type"),
        (config(hidden_size="big"), "'hidden_size' expected int, got str"),
        (config(num_attention_heads=0), "ZeroDivisionError"),
        (config(hidden_act="nothing"), "'nothing'"),
        (config(text_config=5), "AttributeError"),
        (write("generation_config.json", "{"), r"damaged generation_config\.json"),
        (
            write("generation_config.json", "[1]"),
            r"generation_config\.json that must hold an object",
        ),
        (write("generation_config.json", '{"eos_token_id": [2, "x"]}'), "must be token ids, got"),
        (write("tokenizer_config.json", "[]"), r"tokenizer_config\.json that must hold an object"),
        (write("special_tokens_map.json", "[]"), r"special_tokens_map\.json that must hold an obj"),
        (
            write("tokenizer.json", "{}"),
            "must have a config and a tokenizer that transformers loads",
        ),
        (
            write("tokenizer.json", "[]"),
            "must have a config and a tokenizer that transformers loads",
        ),
        (remove_the_tokenizer, r"got no tokenizer\.json"),
    ],
)
def test_broken_settings_are_one_line(
    folder: Path, change: Callable[[Path], None], said: str
) -> None:
    change(folder)
    with pytest.raises(ModelError, match=said) as caught:
        load(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_quantization_of_null_is_none(tiny: LoadedModel, folder: Path) -> None:
    change_json(folder / "config.json", quantization_config=None)
    loaded = load(folder)
    assert torch.equal(logits(loaded), logits(tiny))
    assert loaded.prequantized is None
    assert loaded.origin == "float checkpoint"
    assert checkpoint.folder_fingerprint(folder)
