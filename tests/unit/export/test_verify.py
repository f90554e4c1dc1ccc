"""An export is read back: any change of the folder is found, and the folder does not appear."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from harness.backends.layer import LayerRule
from harness.errors import ModelError
from harness.export import verify
from harness.export.checkpoint import export
from harness.export.layouts.compressed_tensors import CompressedTensors
from harness.export.layouts.gptq import Gptq
from harness.export.layouts.layout import Layout
from harness.formats.integer import Integer
from harness.models.loaded import LoadedModel
from harness.quant.granularity import Granularity
from harness.quant.schemes.block_scaled import BlockScaled
from harness.recipe import QuantRecipe

INT8 = BlockScaled(element=Integer(bits=8), granularity=Granularity(block=(1, -1)))
INT4 = BlockScaled(element=Integer(bits=4), granularity=Granularity(block=(1, 16)))
RECIPE = QuantRecipe(name="int8_row", rules={"all": LayerRule(match="*", weight=INT8)})
FACTS = {"command": "c", "config": {}, "config_hash": "0" * 64, "packages": {"quant-harness": "0"}}
LAYER = "model.layers.1.mlp.down_proj"
in_a_child = verify.in_child


def published(loaded: LoadedModel, out: Path, layout: Layout, recipe: QuantRecipe = RECIPE) -> Any:
    return export(loaded, recipe, layout, out, shard_bytes=10**9, facts=FACTS)


def change_tensor(name: str, change: Callable[[torch.Tensor], None]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        file = folder / "model.safetensors"
        tensors = load_file(file)
        change(tensors[name])
        save_file(tensors, file, metadata={"format": "pt"})

    return apply


def change_config(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        file = folder / "config.json"
        config = json.loads(file.read_text("utf-8"))
        change(config)
        file.write_text(json.dumps(config))

    return apply


def first_group(config: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = config["quantization_config"]["config_groups"]["group_0"]
    return found


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "a code": (
        change_tensor(f"{LAYER}.weight_packed", lambda t: t.view(-1)[5].bitwise_xor_(1)),
        f"{LAYER}.weight .* must have the values of the recipe",
    ),
    "a scale": (
        change_tensor(f"{LAYER}.weight_scale", lambda t: t[3].mul_(1 + 2**-20)),
        f"{LAYER}.weight .* must have the values of the recipe",
    ),
    "a norm": (
        change_tensor("model.norm.weight", lambda t: t[0].mul_(1.5)),
        "model.norm.weight .* must have the values",
    ),
    "two rows": (
        change_tensor(f"{LAYER}.weight_packed", lambda t: t.copy_(t.flip(0))),
        f"{LAYER}.weight .* must have the values of the recipe",
    ),
    "ignored": (
        change_config(lambda c: c["quantization_config"]["ignore"].append(LAYER)),
        f"must have a scheme for {LAYER}, whose codes are stored",
    ),
    "not ignored": (
        change_config(lambda c: c["quantization_config"]["ignore"].remove("lm_head")),
        "must ignore lm_head, as transformers calls it",
    ),
    "activation function": (
        change_config(lambda c: c.update(hidden_act="relu")),
        "logits must be within",
    ),
    "base of positions": (
        change_config(lambda c: c.update(rope_parameters=None, rope_theta=300.0)),
        "logits must be within",
    ),
    "missing layer": (
        change_config(lambda c: c.update(num_hidden_layers=3)),
        "missing_keys",
    ),
    "layer left over": (
        change_config(lambda c: c.update(num_hidden_layers=1)),
        "unexpected_keys",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damage_before_the_folder_is_read_back_is_found(
    name: str, tiny: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage, message = DAMAGES[name]

    def damaged(folder: Path, file: Path) -> None:
        damage(folder)
        verify.check_folder(folder, file)

    monkeypatch.setattr(verify, "in_child", damaged)
    # A head that is not tied is a layer of its own in the file.
    recipe = RECIPE if name != "not ignored" else untied(tiny)
    try:
        with pytest.raises(ModelError, match=message):
            published(tiny, tmp_path / "out", CompressedTensors(), recipe)
    finally:
        tiny.module.tie_weights()
    assert list(tmp_path.iterdir()) == []


def untied(loaded: LoadedModel) -> QuantRecipe:
    """A recipe that leaves the head in float and quantizes the embedding it was tied to."""
    assert loaded.module.config.tie_word_embeddings
    return QuantRecipe(name="e", rules=RECIPE.rules, skip=("lm_head",))


def test_gptq_is_read_back_within_the_rounding_of_its_scales(
    tiny: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = QuantRecipe(name="int4", rules={"all": LayerRule(match="*", weight=INT4)})
    found = published(tiny, tmp_path / "out", Gptq(), recipe)
    assert 0 < found.scale_error <= 2**-11

    def damaged(folder: Path, file: Path) -> None:
        change_tensor(f"{LAYER}.scales", lambda t: t[0].mul_(1.05))(folder)
        verify.check_folder(folder, file)

    monkeypatch.setattr(verify, "in_child", damaged)
    with pytest.raises(ModelError, match="down_proj"):
        published(tiny, tmp_path / "other", Gptq(), recipe)


def test_inputs_are_in_float_on_both_sides(tiny: LoadedModel, tmp_path: Path) -> None:
    rule = LayerRule(match="*", weight=INT8, input=INT8)
    published(tiny, tmp_path / "out", CompressedTensors(), QuantRecipe(name="r", rules={"a": rule}))


def test_a_process_of_its_own_finds_it_too(
    tiny: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(folder: Path, file: Path) -> None:
        change_tensor(f"{LAYER}.weight_scale", lambda t: t[3].mul_(2))(folder)
        in_a_child(folder, file)

    monkeypatch.setattr(verify, "in_child", damaged)
    with pytest.raises(
        ModelError, match=f"must read back as the recipe, but {LAYER}.* nothing was"
    ):
        published(tiny, tmp_path / "out", CompressedTensors())
    assert list(tmp_path.iterdir()) == []


def test_the_projection_is_that_of_a_plain_product() -> None:
    tensor = torch.randn(3, 5, 7)
    vector = torch.randn(7, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    plain = torch.stack([(row.double() * vector).sum() for row in tensor.reshape(15, 7)])
    torch.testing.assert_close(verify._project(tensor, torch.Tensor.clone), plain)
