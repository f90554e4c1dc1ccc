"""Folders in the compressed-tensors layout, read by transformers and by the library itself."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from repository import CONF
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    CompressedTensorsConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from harness.backends.fake import FakeBackend
from harness.backends.layer import LayerRule
from harness.config import build, register, resolve
from harness.errors import UnsupportedRecipe
from harness.export import verify
from harness.export.checkpoint import export
from harness.export.layouts.compressed_tensors import CompressedTensors
from harness.formats.integer import Integer
from harness.formats.minifloat import Minifloat
from harness.models.checkpoints.folder import prepare
from harness.models.loaded import LoadedModel
from harness.models.sources.tiny import byte_tokenizer
from harness.models.targets.targets import find_targets
from harness.quant.granularity import Granularity
from harness.quant.scale import FloatScale, PowerOfTwoScale
from harness.quant.schemes.affine import Affine
from harness.quant.schemes.block_scaled import BlockScaled
from harness.quant.schemes.nvfp4 import NVFP4Scale
from harness.recipe import QuantRecipe, quantize

library = pytest.importorskip("compressed_tensors.quantization")
compressors = pytest.importorskip("compressed_tensors.compressors")

pytestmark = pytest.mark.filterwarnings("ignore:You passed .quantization_config.:UserWarning")

NAMES = sorted(
    file.stem
    for file in (CONF / "quant").glob("*.yaml")
    if not re.search("^none$|^(torchao|bnb)_|_real$", file.stem)
)
"""All but those that name a backend: an export has none, and their formats are those of the
others."""
FACTS = {
    "command": "python -m harness.export",
    "config": {},
    "config_hash": "0" * 64,
    "packages": {"quant-harness": "0"},
}
IDS = torch.arange(1, 40)[None]
BF16_STEP = 2.0**-7
"""Largest relative distance of neighbors in bfloat16."""
LAYOUTS = {
    "int8_row": "pack-quantized",
    "int8_g64": "pack-quantized",
    "int8_tensor": "pack-quantized",
    "int8_block": "pack-quantized",
    "int4_g64": "pack-quantized",
    "int4_row": "pack-quantized",
    "int4_asym_group": "pack-quantized",
    "int3_g64": "pack-quantized",
    "mxint8": "pack-quantized",
    "fp8_row": "naive-quantized",
    "fp8_tensor": "naive-quantized",
    "fp8_block": "naive-quantized",
    "mxfp4": "mxfp4-pack-quantized",
    "mxfp6_e2m3": "mxfp6-pack-quantized",
    "mxfp8": "mxfp8-quantized",
    "nvfp4": "nvfp4-pack-quantized",
    "w8a8": "int-quantized",
    "w4a8": "int-quantized",
    "w8a8_static": "int-quantized",
    "w8a8_fp8": "float-quantized",
    "w8a8_mxfp8": "mxfp8-quantized",
    "w4a4_mxfp4": "mxfp4-pack-quantized",
    "w4a4_nvfp4": "nvfp4-pack-quantized",
}
REFUSED = ("bf16", "nf4_b64", "fp4_b64", "hif4", "hif8", "fp8_e5m2_row", "mxfp6_e3m2", "mxfp8_e5m2")
EPS = 2.0**-23
ROW = Granularity(block=(1, -1))
TENSOR = Granularity(block=(-1, -1))
E4M3 = Minifloat(exponent_bits=4, mantissa_bits=3, specials="nan")
E2M1 = Minifloat(exponent_bits=2, mantissa_bits=1)
BY_THE_LIBRARY: dict[str, BlockScaled] = {
    "w8a8": BlockScaled(
        element=Integer(bits=8, narrow=False),
        granularity=ROW,
        scale=FloatScale(reach="half_span", lowest=0.0, of_zeros=EPS),
    ),
    "w8a8_fp8": BlockScaled(
        element=E4M3, granularity=ROW, scale=FloatScale(lowest=0.0, of_zeros=EPS)
    ),
    "w4a4_mxfp4": BlockScaled(
        element=E2M1, granularity=Granularity(block=(1, 32)), scale=PowerOfTwoScale(rule="even")
    ),
    "w4a4_nvfp4": BlockScaled(
        element=E2M1,
        granularity=Granularity(block=(1, 16)),
        scale=NVFP4Scale(levels=1, subnormal=True, arithmetic="divide"),
    ),
}
"""Formats of inputs with the scales that compressed-tensors fits;
tests/parity/test_compressed_tensors.py holds them together."""

Reload = Callable[..., PreTrainedModel]
_built: dict[tuple[str, ...], QuantRecipe] = {}


def recipe(*overrides: str) -> QuantRecipe:
    """A recipe of conf/quant that installs rounded values, whatever its own backend is."""
    if overrides not in _built:
        register()
        with initialize_config_dir(str(CONF), version_base="1.3"):
            node = resolve(compose("config", ["model=tiny", "data=embedded", *overrides]))["quant"]
        _built[overrides] = replace(build(node, "quant"), backend=FakeBackend())
    return _built[overrides]


@pytest.fixture(autouse=True)
def _read_back_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child for each export would take minutes."""
    monkeypatch.setattr(verify, "in_child", verify.check_folder)


@pytest.fixture(scope="module")
def _models(tmp_path_factory: pytest.TempPathFactory) -> dict[torch.dtype, LoadedModel]:
    """A model whose rows are whole blocks of 128, in two types; its LM head is tied."""
    tokenizer = byte_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.1,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    folder = tmp_path_factory.mktemp("float")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    cpu = torch.device("cpu")
    return {
        dtype: LoadedModel(
            module=prepare(AutoModelForCausalLM.from_pretrained(folder, dtype=dtype), cpu),
            tokenizer=tokenizer,
            name="wide",
            dtype=dtype,
            device=cpu,
            fingerprint="seed0",
        )
        for dtype in (torch.float32, torch.bfloat16)
    }


@pytest.fixture
def model(_models: dict[torch.dtype, LoadedModel]) -> Iterator[LoadedModel]:
    loaded = _models[torch.float32]
    yield loaded
    loaded.restore()


@pytest.fixture
def model_bf16(_models: dict[torch.dtype, LoadedModel]) -> Iterator[LoadedModel]:
    loaded = _models[torch.bfloat16]
    yield loaded
    loaded.restore()


def written(loaded: LoadedModel, chosen: QuantRecipe, folder: Path) -> dict[str, Any]:
    """Export to a folder, and return its `quantization_config`."""
    export(loaded, chosen, CompressedTensors(), folder, shard_bytes=10**9, facts=FACTS)
    return settings(folder)


def settings(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text("utf-8"))
    return config["quantization_config"]


Exports = Callable[[LoadedModel, str], Path]


@pytest.fixture(scope="module")
def exports_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("exports")


@pytest.fixture(scope="module")
def exports(exports_root: Path) -> Exports:
    """Export a model with a recipe of conf/quant; several tests read the same folder."""

    def exported(loaded: LoadedModel, name: str) -> Path:
        folder = exports_root / f"{name}-{loaded.dtype_name}"
        if not folder.exists():
            written(loaded, recipe(f"+quant={name}"), folder)
        return folder

    return exported


def read(folder: Path, dtype: torch.dtype, *, dequantize: bool) -> PreTrainedModel:
    """Load a folder with transformers, into floats at once or at the first call."""
    options = (
        {"quantization_config": CompressedTensorsConfig(dequantize=True)} if dequantize else {}
    )
    found = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **options)
    return found.train(mode=False)


def weights(loaded: LoadedModel, chosen: QuantRecipe) -> dict[str, torch.Tensor]:
    """Return the weights of the recipe in memory, which stays quantized."""
    quantize(loaded, chosen)
    return {t.name: t.weight.detach().clone() for t in find_targets(loaded.module)}


@torch.no_grad()
def logits(module: PreTrainedModel) -> torch.Tensor:
    return module(IDS, use_cache=False).logits.float()


def assert_same(found: PreTrainedModel, ours: dict[str, torch.Tensor], rtol: float = 0.0) -> None:
    """Assert that every weight is the recipe's, embedding and head included."""
    targets = find_targets(found)
    assert {target.name for target in targets} == ours.keys()
    for target in targets:
        torch.testing.assert_close(
            target.weight.detach(), ours[target.name], rtol=rtol, atol=0, msg=target.name
        )


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_is_read_back_exactly_or_refused_with_a_reason(
    name: str, model: LoadedModel, exports: Exports, exports_root: Path
) -> None:
    chosen = recipe(f"+quant={name}")
    try:
        folder = exports(model, name)
    except UnsupportedRecipe as reason:
        said = str(reason)
        assert "must be one that layout=compressed_tensors can hold" in said or (
            "rows must be whole blocks of" in said and "got 128 columns" in said
        )
        assert name not in LAYOUTS
        assert not any(folder.name.startswith(f"{name}-") for folder in exports_root.iterdir())
        return
    assert name not in REFUSED
    config = settings(folder)
    assert config["format"] == LAYOUTS.get(name, config["format"])
    found = read(folder, torch.float32, dequantize=True)
    ours = weights(model, chosen)
    # The library gives NVFP4 values as bfloat16, whatever the model's type; the others are exact in
    # it.
    assert_same(found, ours, rtol=BF16_STEP if "nvfp4" in config["format"] else 0.0)
    if chosen.rules["linear"].input is None and "nvfp4" not in config["format"]:
        torch.testing.assert_close(logits(found), logits(model.module), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "name", ["int8_row", "int8_tensor", "int4_g64", "fp8_row", "fp8_block", "mxint8"]
)
def test_weights_decompressed_at_the_first_call_give_the_same_logits(
    name: str, model: LoadedModel, exports: Exports
) -> None:
    chosen = recipe(f"+quant={name}")
    found = read(exports(model, name), torch.float32, dequantize=False)
    assert not found.model.layers[0].mlp.up_proj.state_dict().keys() <= {"weight"}
    theirs = logits(found)
    ours = weights(model, chosen)
    assert_same(found, ours)
    torch.testing.assert_close(theirs, logits(model.module), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["mxfp4", "mxfp6_e2m3", "mxfp8", "nvfp4", "mxint8"])
def test_small_floats_of_a_bfloat16_model_are_the_same(
    name: str, model_bf16: LoadedModel, exports: Exports
) -> None:
    chosen = recipe(f"+quant={name}")
    folder = exports(model_bf16, name)
    for dequantize in (False, True):
        found = read(folder, torch.bfloat16, dequantize=dequantize)
        theirs = logits(found)
        ours = weights(model_bf16, chosen)
        if name == "nvfp4":
            # 1 / (1 / g) is g but for one rounding in float32, which decides ties of bfloat16.
            assert_same(found, ours, rtol=BF16_STEP)
        else:
            assert_same(found, ours)
            torch.testing.assert_close(theirs, logits(model_bf16.module), rtol=0, atol=0)
        model_bf16.restore()


@pytest.mark.parametrize("name", ["int8_row", "int4_g64", "fp8_row"])
def test_float32_scales_are_exact_where_transformers_reads_them_so(
    name: str, model_bf16: LoadedModel, exports: Exports
) -> None:
    chosen = recipe(f"+quant={name}")
    folder = exports(model_bf16, name)
    assert_same(read(folder, torch.bfloat16, dequantize=True), weights(model_bf16, chosen))
    rounded = read(folder, torch.bfloat16, dequantize=False)
    logits(rounded)
    # Left compressed, parameters take the model's type: the scale is rounded, and then the product.
    assert_same(rounded, weights(model_bf16, chosen), rtol=BF16_STEP * 1.01)


@pytest.mark.parametrize("name", BY_THE_LIBRARY)
def test_inputs_are_rounded_as_written_with_the_scales_of_the_library(
    name: str, model: LoadedModel, model_bf16: LoadedModel, exports: Exports
) -> None:
    # FP4 is read into bfloat16 alone.
    loaded = model_bf16 if "4" in name else model
    chosen = recipe(f"+quant={name}")
    theirs = logits(read(exports(loaded, name), loaded.dtype, dequantize=False))
    rule = replace(chosen.rules["linear"], input=BY_THE_LIBRARY[name])
    quantize(loaded, replace(chosen, rules={"linear": rule}))
    same = logits(loaded.module)
    loaded.restore()
    quantize(loaded, replace(chosen, rules={"linear": replace(rule, input=None)}))
    unrounded = logits(loaded.module)
    if name == "w4a4_nvfp4":
        # Scales of inputs are fitted in bfloat16 there: some become another E4M3 number.
        assert (theirs - same).abs().mean() < 0.5 * (theirs - unrounded).abs().mean()
    else:
        assert (theirs - unrounded).abs().mean() > 0.01
        torch.testing.assert_close(theirs, same, rtol=1e-5, atol=1e-5)


def test_static_scales_of_inputs_are_written(model: LoadedModel, tmp_path: Path) -> None:
    chosen = recipe("+quant=w8a8_static", "quant.calibration.num_sequences=2")
    config = written(model, chosen, tmp_path / "out")
    inputs = config["config_groups"]["group_0"]["input_activations"]
    assert (inputs["strategy"], inputs["dynamic"]) == ("tensor", False)
    theirs = logits(read(tmp_path / "out", torch.float32, dequantize=False))
    # The same scales, but what lies below them saturates at -128 there, at -127 here.
    wider = BlockScaled(element=Integer(bits=8, narrow=False), granularity=TENSOR)
    rule = replace(chosen.rules["linear"], input=wider)
    quantize(model, replace(chosen, rules={"linear": rule}))
    torch.testing.assert_close(theirs, logits(model.module), rtol=1e-5, atol=1e-5)
    model.restore()
    dynamic = replace(chosen.rules["linear"], static_input=False)
    quantize(model, replace(chosen, rules={"linear": dynamic}))
    assert (theirs - logits(model.module)).abs().mean() > 0.01, "the scales are not those of a call"


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_tensors_are_those_the_library_compresses_the_same_values_to(
    name: str, model: LoadedModel, exports: Exports
) -> None:
    chosen = recipe(f"+quant={name}")
    folder = exports(model, name)
    config, tensors = settings(folder), load_file(folder / "model.safetensors")
    path = "model.layers.1.mlp.down_proj"
    ours = {
        key.removeprefix(f"{path}."): value
        for key, value in tensors.items()
        if key.startswith(path)
    }
    group = library.QuantizationScheme.model_validate(config["config_groups"]["group_0"])
    compressor = compressors.BaseCompressor.get_value_from_registry(config["format"])
    given = {
        key: value for key, value in ours.items() if key not in ("weight_packed", "weight_shape")
    }
    given["weight"] = weights(model, chosen)[path]
    scale = given["weight_scale"]
    if scale.dtype is torch.uint8:
        given["weight_scale"] = torch.exp2(scale.float() - 127)
    if scale.dtype is torch.float8_e4m3fn:
        given["weight_scale"] = scale.float()
    if "weight_zero_point" in given:
        zeros = model_zero_points(chosen, model, path)
        given["weight_zero_point"] = zeros
    theirs = compressor.compress(given, group)
    assert theirs.keys() == ours.keys()
    for key, value in theirs.items():
        assert value.dtype is ours[key].dtype, key
        seen = unsigned_zeros if key == "weight_packed" and "fp4" in config["format"] else as_bytes
        assert torch.equal(seen(value), seen(ours[key])), key


def as_bytes(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor that can be compared, FP8 by its codes."""
    return tensor.view(torch.uint8) if tensor.dtype.itemsize == 1 else tensor


def unsigned_zeros(packed: torch.Tensor) -> torch.Tensor:
    """Return FP4 codes without the sign of zero, which the library drops when it rounds."""
    codes = torch.stack([packed & 15, packed >> 4])
    return torch.where(codes == 8, 0, codes)


def model_zero_points(chosen: QuantRecipe, loaded: LoadedModel, path: str) -> torch.Tensor:
    """Return the zero points of a layer's format as the library has them before it packs them."""
    loaded.restore()
    scales = chosen.rules["linear"].weight.fit(loaded.module.get_submodule(path).weight.detach())
    assert scales.zero_point is not None
    return scales.zero_point.values.to(torch.int8)


INT8 = BlockScaled(element=Integer(bits=8), granularity=ROW)
INT4 = BlockScaled(element=Integer(bits=4), granularity=Granularity(block=(1, 32)))


def test_two_rules_become_two_groups_that_match_their_own_layers(
    model: LoadedModel, tmp_path: Path
) -> None:
    chosen = QuantRecipe(
        name="mixed",
        rules={
            "down": LayerRule(match="*.down_proj", weight=INT8),
            "first": LayerRule(match="model.layers.0.*", weight=INT4),
            "rest": LayerRule(match="*", weight=BlockScaled(element=E4M3, granularity=ROW)),
        },
        skip=("lm_head", "embed_tokens", "*.k_proj"),
    )
    config = written(model, chosen, tmp_path / "out")
    assert config["format"] == "mixed-precision"
    groups = config["config_groups"].values()
    assert [group["format"] for group in groups] == [
        "pack-quantized",
        "pack-quantized",
        "naive-quantized",
    ]
    assert r"re:model\.layers\.\d+\.mlp\.down_proj$" in [t for g in groups for t in g["targets"]]
    assert config["ignore"] == [
        "model.layers.0.self_attn.k_proj",
        "model.layers.1.self_attn.k_proj",
        "lm_head",
    ]
    found = read(tmp_path / "out", torch.float32, dequantize=False)
    theirs = logits(found)
    ours = weights(model, chosen)
    assert_same(found, ours)
    torch.testing.assert_close(theirs, logits(model.module), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("skip", [("embed_tokens",), ("lm_head",), ()], ids=str)
def test_either_side_of_a_tied_head_is_quantized_alone(
    skip: tuple[str, ...], model: LoadedModel, tmp_path: Path
) -> None:
    chosen = QuantRecipe(name="head", rules={"all": LayerRule(match="*", weight=INT8)}, skip=skip)
    config = written(model, chosen, tmp_path / "out")
    assert ("model.embed_tokens" in config["config_groups"]["group_0"]["targets"]) is (
        "embed_tokens" not in skip
    )
    assert (
        json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is False
    )
    assert model.module.config.tie_word_embeddings
    assert ("lm_head" in config["config_groups"]["group_0"]["targets"]) is ("lm_head" not in skip)
    # transformers 5.23 cannot make an embedding without a weight, and leaves only linear layers
    # compressed.
    found = read(tmp_path / "out", torch.float32, dequantize="embed_tokens" not in skip)
    theirs = logits(found)
    ours = weights(model, chosen)
    assert_same(found, ours)
    torch.testing.assert_close(theirs, logits(model.module), rtol=1e-5, atol=1e-5)


def test_zero_points_of_rows_are_read_back(model: LoadedModel, tmp_path: Path) -> None:
    fmt = Affine(element=Integer(bits=8, narrow=False), granularity=ROW)
    chosen = QuantRecipe(name="asym", rules={"all": LayerRule(match="*", weight=fmt)})
    written(model, chosen, tmp_path / "out")
    found = read(tmp_path / "out", torch.float32, dequantize=True)
    assert_same(found, weights(model, chosen))
