"""The exported folder as a whole: what it holds, what is an error, and what is left behind."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from harness.backends.fake import FakeBackend
from harness.backends.layer import LayerRule
from harness.errors import AuditError, ConfigError, ModelError, OutputError, UnsupportedRecipe
from harness.export import checkpoint, verify
from harness.export.checkpoint import export, least_bytes
from harness.export.layouts.compressed_tensors import CompressedTensors
from harness.export.layouts.gptq import Gptq
from harness.export.layouts.layout import Layout
from harness.formats.integer import Integer
from harness.formats.native import Native
from harness.models.checkpoints.folder import sha256_file
from harness.models.loaded import LoadedModel
from harness.output import place
from harness.quant.granularity import Granularity
from harness.quant.scale import FloatScale
from harness.quant.schemes.block_scaled import BlockScaled
from harness.quant.schemes.unscaled import Unscaled
from harness.recipe import QuantRecipe
from harness.recipe import quantize as quantize_model

FACTS = {
    "command": "python -m harness.export +quant=int8_row out=DIR",
    "config": {"quant": {"name": "int8_row"}},
    "config_hash": "0123456789abcdef" * 4,
    "packages": {"quant-harness": "0"},
}
INT8 = BlockScaled(element=Integer(bits=8), granularity=Granularity(block=(1, -1)))
INT4 = BlockScaled(element=Integer(bits=4), granularity=Granularity(block=(1, 16)))
INT8_ROW = QuantRecipe(name="int8_row", rules={"linear": LayerRule(match="*", weight=INT8)})
SMALL: dict[str, Any] = {
    "vocab_size": 261,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}
Made = Callable[..., LoadedModel]
BOTH = pytest.mark.parametrize("layout", [CompressedTensors(), Gptq()], ids=lambda x: x.name)


def exported(
    loaded: LoadedModel,
    out: Path,
    recipe: QuantRecipe = INT8_ROW,
    layout: Layout = CompressedTensors(),  # noqa: B008 - it is immutable
    shard_bytes: int = 10**9,
) -> Any:
    return export(loaded, recipe, layout, out, shard_bytes=shard_bytes, facts=FACTS)


def read_json(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return found


@BOTH
def test_the_folder_has_all_that_a_reader_needs(
    layout: Layout, tiny: LoadedModel, tmp_path: Path
) -> None:
    tiny.tokenizer.chat_template = "{{ messages }}"
    try:
        found = exported(tiny, tmp_path / "deep" / "out", layout=layout)
    finally:
        tiny.tokenizer.chat_template = None
    out = found.folder
    own = {"quantize_config.json"} if layout.name == "gptq" else set()
    assert {file.name for file in out.iterdir()} == own | {
        "README.md",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "quant_harness.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert [file.name for file in (tmp_path / "deep").iterdir()] == ["out"]
    config = read_json(out / "config.json")
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["dtype"] == "float32"
    text = "Größe 7"
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer(text)["input_ids"] == tiny.tokenizer(text)["input_ids"]
    assert out.stat().st_mode & 0o077 == (out / "README.md").stat().st_mode & 0o077 | 0o011
    modes = {file.stat().st_mode for file in out.iterdir()}
    assert len(modes) == 1, "weights can be read by whoever can read the rest"


def test_the_manifest_says_what_was_made_and_how_exactly(tiny: LoadedModel, tmp_path: Path) -> None:
    report = quantize_model(tiny, INT8_ROW).report
    tiny.restore()
    found = exported(tiny, tmp_path / "out")
    manifest = read_json(tmp_path / "out" / "quant_harness.json")
    assert manifest["command"] == FACTS["command"]
    assert manifest["config_hash"] == FACTS["config_hash"]
    assert manifest["recipe"] == "int8_row"
    assert manifest["model"]["fingerprint"] == tiny.fingerprint
    assert manifest["coverage"] == report.coverage
    assert manifest["bits_per_weight"] == report.bits_per_weight
    assert [layer["name"] for layer in manifest["layers"]] == [x.name for x in report.layers]
    assert [layer["rel_error"] for layer in manifest["layers"]] == [
        x.rel_error for x in report.layers
    ]
    assert {layer["scale_error"] for layer in manifest["layers"]} == {0.0}
    file = tmp_path / "out" / "model.safetensors"
    assert manifest["weights"] == {"model.safetensors": sha256_file(file)}
    tensors = load_file(file)
    assert manifest["total_bytes"] == found.total_bytes == sum(t.nbytes for t in tensors.values())
    stored = sum(layer["stored_bytes"] for layer in manifest["layers"])
    left = sum(t.nbytes for name, t in tensors.items() if "proj" not in name)
    assert stored + left == found.total_bytes
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert FACTS["command"] in card
    assert "0123456789ab" in card
    assert "exactly the recipe's" in card


def test_the_card_says_how_much_scales_were_rounded(tiny: LoadedModel, tmp_path: Path) -> None:
    found = exported(tiny, tmp_path / "out", layout=Gptq())
    assert 0 < found.scale_error <= 2**-11
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert f"differ from the recipe's by up to {found.scale_error:.1e} of their size" in card


def test_random_weights_are_called_so(tiny: LoadedModel, tmp_path: Path) -> None:
    tiny.weights = "random"
    try:
        exported(tiny, tmp_path / "out")
    finally:
        tiny.weights = "pretrained"
    assert "good for measuring speed alone" in (tmp_path / "out" / "README.md").read_text("utf-8")
    assert read_json(tmp_path / "out" / "quant_harness.json")["model"]["weights"] == "random"


def test_what_stays_in_float_is_written_once_and_unchanged(
    tiny: LoadedModel, tmp_path: Path
) -> None:
    exported(tiny, tmp_path / "out")
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    floats = {name: value for name, value in tensors.items() if "proj" not in name}
    expected = {
        name: value
        for name, value in tiny.module.state_dict().items()
        if "proj" not in name and name != "lm_head.weight"  # tied to the embedding
    }
    assert floats.keys() == expected.keys()
    assert all(torch.equal(floats[name], value) for name, value in expected.items())


def test_a_bias_stays_in_float(made: Made, tmp_path: Path) -> None:
    config = LlamaConfig(**SMALL, attention_bias=True)
    loaded = made(LlamaForCausalLM, config)
    bias = loaded.module.get_parameter("model.layers.0.self_attn.q_proj.bias")
    bias.data = torch.arange(32.0)
    exported(loaded, tmp_path / "out", layout=Gptq())
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(tensors["model.layers.0.self_attn.q_proj.bias"], torch.arange(32.0))


def test_a_tensor_that_the_architecture_does_not_take_is_not_published(
    tiny: LoadedModel, tmp_path: Path
) -> None:
    layer = tiny.module.model.layers[0].self_attn.q_proj
    layer.bias = torch.nn.Parameter(torch.arange(48.0), requires_grad=False)
    try:
        with pytest.raises(ModelError, match=r"unexpected_keys: model\.layers\.0.*q_proj\.bias"):
            exported(tiny, tmp_path / "out")
    finally:
        layer.bias = None
    assert list(tmp_path.iterdir()) == []


def test_large_models_are_cut_into_files_with_an_index(tiny: LoadedModel, tmp_path: Path) -> None:
    whole = exported(tiny, tmp_path / "whole")
    parts = exported(tiny, tmp_path / "parts", shard_bytes=20_000)
    assert whole.files == ("model.safetensors",)
    assert len(parts.files) > 2
    assert parts.files[0] == f"model-00001-of-{len(parts.files):05}.safetensors"
    index = read_json(tmp_path / "parts" / "model.safetensors.index.json")
    assert index["metadata"]["total_size"] == whole.total_bytes
    one, together = load_file(tmp_path / "whole" / "model.safetensors"), {}
    for name in parts.files:
        with safe_open(tmp_path / "parts" / name, framework="pt") as file:
            assert file.metadata() == {"format": "pt"}
        shard = load_file(tmp_path / "parts" / name)
        assert {key for key, place in index["weight_map"].items() if place == name} == shard.keys()
        assert sum(t.nbytes for t in shard.values()) <= 20_000 or len(shard) == 1
        together |= shard
    assert together.keys() == one.keys()
    assert all(torch.equal(together[name], value) for name, value in one.items())


def test_the_model_is_as_it_was_afterwards(tiny: LoadedModel, tmp_path: Path) -> None:
    before = {name: value.clone() for name, value in tiny.module.state_dict().items()}
    recipe = QuantRecipe(name="all", rules={"all": LayerRule(match="*", weight=INT8)}, skip=())
    exported(tiny, tmp_path / "out", recipe)
    assert tiny.module.config.tie_word_embeddings
    assert tiny.module.lm_head.weight is tiny.module.model.embed_tokens.weight
    after = tiny.module.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_an_export_is_replaced_with_force_alone(tiny: LoadedModel, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir(mode=0o700)
    exported(tiny, out)
    before = {file.name: file.stat().st_ino for file in out.iterdir()}
    assert out.stat().st_mode & 0o777 == 0o700, "permissions of the folder that was there"
    with pytest.raises(OutputError) as refused:
        exported(tiny, out)
    assert str(refused.value) == (
        f"out must be a folder that does not exist or is empty, got {out}, which the harness "
        "wrote; name another, or add force=true to replace it"
    )
    assert {file.name: file.stat().st_ino for file in out.iterdir()} == before
    export(tiny, INT8_ROW, Gptq(), out, shard_bytes=20_000, facts=FACTS, force=True)
    assert read_json(out / "quant_harness.json")["layout"] == "gptq"
    assert not (out / "model.safetensors").exists(), "nothing of the old one is left"
    assert list(tmp_path.iterdir()) == [out]
    found = sorted(file.name for file in out.iterdir())
    assert read_json(out / "quant_harness.json")["files"] == found


@pytest.mark.parametrize("force", [False, True])
def test_what_no_export_wrote_is_never_replaced(
    force: bool, tiny: LoadedModel, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    exported(tiny, out)
    (out / "adapter.bin").write_text("mine")
    old = tmp_path / "old"  # a manifest of a version that did not list files
    exported(tiny, old)
    manifest = read_json(old / "quant_harness.json")
    del manifest["files"]
    (old / "quant_harness.json").write_text(json.dumps(manifest))
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "quant_harness.json").write_text("[]")
    for folder in (out, old, mine):
        before = {file: file.read_bytes() for file in folder.iterdir()}
        with pytest.raises(
            OutputError, match=r"files that the harness did not write; name another"
        ):
            export(tiny, INT8_ROW, Gptq(), folder, shard_bytes=9**9, facts=FACTS, force=force)
        assert {file: file.read_bytes() for file in folder.iterdir()} == before
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(OutputError, match=r"out must be a folder .*which is a file"):
        export(tiny, INT8_ROW, Gptq(), file, shard_bytes=9**9, facts=FACTS, force=force)
    assert file.read_text() == "mine"


def test_a_folder_needs_at_least_its_codes_and_what_stays_in_float(
    tiny: LoadedModel, tmp_path: Path
) -> None:
    found = exported(tiny, tmp_path / "out")
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    more = sum(t.nbytes for name, t in tensors.items() if name.endswith(("_scale", "_shape")))
    assert least_bytes(tiny, INT8_ROW) == found.total_bytes - more


def test_a_disk_without_room_is_refused_before_anything_is_quantized(
    tiny: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need = least_bytes(tiny, INT8_ROW)

    def disk(free: int) -> None:
        usage = lambda _: SimpleNamespace(total=10**9, used=0, free=free)  # noqa: E731
        monkeypatch.setattr(place.shutil, "disk_usage", usage)

    disk(need - 1)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "quantize", None)
        with pytest.raises(
            OutputError, match=rf"out must have room for {need:,} bytes, got .*free some"
        ):
            exported(tiny, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    disk(need)
    exported(tiny, tmp_path / "out")


def test_a_failure_on_the_way_leaves_nothing_behind(
    tiny: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        assert len(list(tmp_path.glob("*/*/model-*"))) > 2, "files were written before"
        raise ModelError("another model")

    monkeypatch.setattr(verify, "in_child", fail)
    with pytest.raises(ModelError, match="another model"):
        exported(tiny, tmp_path / "out", shard_bytes=10_000)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    monkeypatch.setattr(verify, "in_child", verify.check_folder)
    exported(tiny, tmp_path / "out")


@pytest.mark.parametrize(
    "name",
    ["model.layers.1.mlp.down_proj.weight", "model.norm.weight", "model.embed_tokens.weight"],
)
@pytest.mark.parametrize("value", [torch.nan, -torch.inf])
def test_a_number_that_is_not_finite_is_refused_before_anything_is_written(
    name: str, value: float, tiny: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "new_folder", None)
    numbers = tiny.module.get_parameter(name).data.view(-1)
    before = float(numbers[3])
    numbers[3] = value
    try:
        with pytest.raises(AuditError, match=f"got NaN or infinity in {re.escape(name)}"):
            exported(tiny, tmp_path / "out")
    finally:
        numbers[3] = before


def test_a_scale_that_overflows_is_refused(made: Made, tmp_path: Path) -> None:
    loaded = made(LlamaForCausalLM, LlamaConfig(**SMALL))
    loaded.module.get_parameter("model.layers.0.mlp.up_proj.weight").data[0, 0] = 1e9
    half = replace(INT8, scale=FloatScale(storage=Native(name="fp16")))
    recipe = QuantRecipe(name="half", rules={"all": LayerRule(match="*", weight=half)})
    with pytest.raises(AuditError, match=r"(?s)finite.*up_proj"):
        exported(loaded, tmp_path / "out", recipe)
    assert list(tmp_path.iterdir()) == []


def test_the_float_model_is_no_recipe(tiny: LoadedModel, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="quant must be a recipe that quantizes, got none"):
        exported(tiny, tmp_path / "out", QuantRecipe())


@BOTH
def test_a_format_that_the_layout_cannot_hold_is_refused_with_what_it_can(
    layout: Layout, tiny: LoadedModel, tmp_path: Path
) -> None:
    rule = LayerRule(match="*", weight=Unscaled(element=Native(name="bf16")))
    with pytest.raises(UnsupportedRecipe) as refused:
        exported(tiny, tmp_path / "out", QuantRecipe(name="bf16", rules={"r": rule}), layout)
    assert f"layout={layout.name} can hold" in str(refused.value)
    assert layout.holds in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_gptq_refuses_two_formats_inputs_and_the_embedding(
    tiny: LoadedModel, tmp_path: Path
) -> None:
    two = {"a": LayerRule(match="*.mlp.*", weight=INT8), "b": LayerRule(match="*", weight=INT4)}
    inputs = {"a": LayerRule(match="*", weight=INT8, input=INT8)}
    embedding = {"a": LayerRule(match="*", weight=INT4)}
    for rules, skip, message in (
        (two, ("lm_head", "embed_tokens"), "the rules have 2 different formats"),
        (inputs, ("lm_head", "embed_tokens"), "rule a rounds activations to int8_row"),
        (embedding, ("lm_head",), "layout=gptq loads, but its readers know linear layers alone"),
    ):
        recipe = QuantRecipe(name="r", rules=rules, skip=skip)
        with pytest.raises(UnsupportedRecipe, match=message):
            exported(tiny, tmp_path / "out", recipe, Gptq())


def test_a_backend_that_changes_weights_first_is_refused(tiny: LoadedModel, tmp_path: Path) -> None:
    class Smoothing(FakeBackend):
        """A real backend without a fake path to compare with."""

        name = "smoothing"
        kind = "real"

    recipe = QuantRecipe(name="s", rules=INT8_ROW.rules, backend=Smoothing())
    with pytest.raises(UnsupportedRecipe, match="got smoothing, which changes weights before"):
        exported(tiny, tmp_path / "out", recipe)
