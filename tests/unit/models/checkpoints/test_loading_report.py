"""Tensors in files and tensors in the model are the same set, or the difference is said."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3NextConfig,
    Qwen3NextForCausalLM,
)

from harness.errors import ModelError
from harness.models.checkpoints import loading_report
from harness.models.checkpoints.loading_report import check_loading, ignored_tensors
from harness.models.checkpoints.stored_tensors import StoredTensor
from harness.models.loaded import LoadedModel
from harness.models.sources.config_only import load_weightless
from harness.models.sources.pretrained import LocalModel
from harness.models.sources.tiny import byte_tokenizer

CPU = torch.device("cpu")
IDS = torch.arange(32)[None]
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"

Tensors = dict[str, torch.Tensor]


def change(folder: Path, **changes: torch.Tensor | None) -> Tensors:
    """Store other tensors, or (None) leave some out; return all."""
    file = folder / "model.safetensors"
    tensors: dict[str, Any] = load_file(file) | changes
    kept = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    save_file(kept, file, metadata={"format": "pt"})
    return kept


def load(folder: Path) -> LoadedModel:
    return LocalModel(path=str(folder), dtype="float32").load(CPU)


def light(folder: Path) -> LoadedModel:
    return load_weightless(folder, dtype="float32")


def logits(module: Any) -> torch.Tensor:
    with torch.inference_mode():
        return module(IDS).logits


@pytest.mark.parametrize("path", [load, light])
def test_tensors_without_a_place_are_named(
    folder: Path, path: Callable[[Path], LoadedModel]
) -> None:
    names = [f"model.layers.{i}.self_attn.q_proj.bias" for i in (0, 1)]
    change(folder, **{name: torch.ones(48) for name in names})
    with pytest.raises(
        ModelError, match=f"has 2 that a LlamaForCausalLM .*: {names[0]}, {names[1]};"
    ):
        path(folder)


def test_layer_that_the_config_does_not_know_is_named_by_its_first_five(folder: Path) -> None:
    layer = {
        name.replace("layers.1.", "layers.2."): tensor.clone()
        for name, tensor in load_file(folder / "model.safetensors").items()
        if ".layers.1." in name
    }
    change(folder, **layer)
    first = ", ".join(sorted(layer)[:5])
    with pytest.raises(ModelError, match=rf"has {len(layer)} that .*: {first}, \.\.\.;"):
        load(folder)


@pytest.mark.parametrize("path", [load, light])
def test_other_shapes_are_named(folder: Path, path: Callable[[Path], LoadedModel]) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    change(folder, **{name: torch.zeros(7, 48)})
    with pytest.raises(ModelError, match=rf"has 1 others: {name} \[7, 48\] instead of \[80, 48\]"):
        path(folder)


@pytest.mark.parametrize("path", [load, light])
def test_missing_tensor_is_named(folder: Path, path: Callable[[Path], LoadedModel]) -> None:
    change(folder, **{"model.norm.weight": None})
    with pytest.raises(ModelError, match=r"lacks 1: model\.norm\.weight"):
        path(folder)


def test_weight_that_is_stored_twice_is_refused(folder: Path) -> None:
    """With and without the prefix of the body, transformers takes either name."""
    change(folder, **{"layers.0.mlp.up_proj.weight": torch.zeros(80, 48)})
    with pytest.raises(ModelError, match=r"two tensors for 1: layers\.0\.mlp\.up_proj\.weight"):
        load(folder)


def test_buffers_that_old_checkpoints_store_are_a_warning(tiny: LoadedModel, folder: Path) -> None:
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    change(folder, **{name: torch.ones(6)})
    for path in (load, light):
        loaded = path(folder)
        assert loaded.warnings == (
            f"1 stored tensors are not used: {name}; LlamaForCausalLM ignores them by design",
        )
    assert torch.equal(logits(load(folder).module), logits(tiny.module))


def test_head_for_speculative_decoding_is_a_warning_where_the_class_ignores_it() -> None:
    with torch.device("meta"):
        module = Qwen3NextForCausalLM(Qwen3NextConfig(num_hidden_layers=1, num_experts=2))
    head = ["mtp.fc.weight", "mtp.layers.0.mlp.up_proj.weight"]
    some = StoredTensor(dtype="F32", numel=4, nbytes=16)
    assert ignored_tensors(dict.fromkeys([*module.state_dict(), *head], some), module) == head


def test_causal_masks_of_old_checkpoints_are_a_warning_and_biases_are_none(tmp_path: Path) -> None:
    """As in the files of EleutherAI/gpt-neo-125m, with and without the prefix of the body."""
    sizes: dict[str, Any] = {"vocab_size": 261, "hidden_size": 16, "num_layers": 2, "num_heads": 2}
    config = GPTNeoConfig(
        **sizes, attention_types=[[["global", "local"], 1]], max_position_embeddings=64
    )
    module = GPTNeoForCausalLM(config).eval()
    module.save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    masks = {
        "h.0.attn.attention.bias": torch.ones(1, 1, 64, 64, dtype=torch.bool).tril(),
        "transformer.h.1.attn.attention.masked_bias": torch.tensor(-1e9),
    }
    change(tmp_path, **masks)
    loaded = load(tmp_path)
    assert torch.equal(logits(loaded.module), logits(module))
    assert loaded.warnings[0].startswith(f"2 stored tensors are not used: {', '.join(masks)};")
    bias = "transformer.h.0.attn.attention.q_proj.bias"
    change(tmp_path, **{bias: torch.ones(16)})
    with pytest.raises(ModelError, match=f"has 1 that a GPTNeoForCausalLM .*: {bias}"):
        load(tmp_path)


def test_two_weights_of_a_tied_head_are_both_used_and_said(folder: Path) -> None:
    other = torch.randn(261, 48, generator=torch.Generator().manual_seed(3))
    tensors = change(folder, **{HEAD: other})
    loaded = load(folder)
    assert torch.equal(loaded.module.lm_head.weight, other)
    assert torch.equal(loaded.module.model.embed_tokens.weight, tensors[EMBEDDING])
    assert torch.equal(
        logits(loaded.module),
        logits(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)),
    )
    (warning,) = loaded.warnings
    assert f"ties {HEAD} to {EMBEDDING}, but the files hold two different tensors" in warning
    loaded.module.tie_weights()
    assert torch.equal(loaded.module.lm_head.weight, other)


def test_equal_weights_of_a_tied_head_are_one(tiny: LoadedModel, folder: Path) -> None:
    change(folder, **{HEAD: load_file(folder / "model.safetensors")[EMBEDDING].clone()})
    for loaded in (load(folder), light(folder)):
        assert loaded.module.lm_head.weight is loaded.module.model.embed_tokens.weight
        assert loaded.num_parameters == tiny.num_parameters
        assert loaded.warnings == ()


def test_adapter_beside_the_weights_is_said(tiny: LoadedModel, folder: Path) -> None:
    before = load(folder).fingerprint
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}', encoding="utf-8")
    save_file({"a.lora_A.weight": torch.ones(2, 2)}, folder / "adapter_model.safetensors")
    for path in (load, light):
        loaded = path(folder)
        (warning,) = loaded.warnings
        assert loaded.fingerprint == before
        assert "adapter_config.json) is not applied" in warning
    assert torch.equal(logits(load(folder).module), logits(tiny.module))


def test_adapter_is_refused_where_transformers_would_apply_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}', encoding="utf-8")
    monkeypatch.setattr(loading_report, "is_peft_available", lambda: True)
    for path in (load, light):
        with pytest.raises(ModelError, match="no adapter while peft is installed"):
            path(folder)


def test_vision_tower_beside_a_text_model_is_no_error_and_a_layer_of_text_is(
    tmp_path: Path,
) -> None:
    """A text model out of a wrapper's folder: its config is the wrapper's `text_config`."""
    config = LlamaConfig(
        vocab_size=261, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1,
    )  # fmt: skip
    module = LlamaForCausalLM(config)
    module.save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    keys = {"vision_tower.layers.0.weight", "model.visual.merger.weight"}
    loading: dict[str, Any] = {
        "missing_keys": set(), "mismatched_keys": set(), "unexpected_keys": keys,
    }  # fmt: skip
    with pytest.raises(ModelError, match="has 2 that"):
        check_loading(loading, module, tmp_path)
    (tmp_path / "config.json").write_text('{"text_config": {}, "vision_config": {}}', "utf-8")
    assert check_loading(loading, module, tmp_path) == sorted(keys)
    loading["unexpected_keys"] = keys | {"model.layers.1.mlp.up_proj.weight"}
    with pytest.raises(ModelError, match=r"has 1 that .*: model\.layers\.1\."):
        check_loading(loading, module, tmp_path)


def test_weights_under_other_names_are_named_beside_those_that_lack(folder: Path) -> None:
    file = folder / "model.safetensors"
    renamed = {f"_orig_mod.{name}": tensor for name, tensor in load_file(file).items()}
    save_file(renamed, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks \d+: .*of other names, such as _orig_mod\.model"):
        load(folder)
