"""torchao's tensors in a model: matmuls, bytes, audit, and what torchao would skip silently."""

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from recipe_builders import conf_recipe, quantized_layer, relative_error
from torch import nn
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from harness.backends.fake import FakeBackend
from harness.backends.layer import QuantizedLayer
from harness.backends.torchao import library
from harness.backends.torchao.backend import TorchaoBackend
from harness.backends.torchao.library import torchao
from harness.errors import AuditError, UnsupportedRecipe
from harness.models.checkpoints.folder import prepare
from harness.models.loaded import LoadedModel
from harness.models.sources.tiny import byte_tokenizer
from harness.models.targets.targets import Target, find_targets
from harness.quant.primitives import quantize
from harness.recipe import audit_after
from harness.recipe import quantize as quantize_model

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
BYTES_OF_64_BY_128 = {
    # INT8: codes, scales, and a zero point of a byte for each scale, which is 0.
    "torchao_int8_row": 64 * 128 + 64 * (4 + 1),
    "torchao_int8_tensor": 64 * 128 + (4 + 1),
    "torchao_int8_g64": 64 * 128 + 64 * 2 * (4 + 1),
    "torchao_int8_dynamic": 64 * 128 + 64 * (4 + 1),
    # INT4: a scale and a zero in the type of the model.
    "torchao_int4_g32": 64 * 64 + 64 * 4 * (2 + 2),
    "torchao_int4_g64": 64 * 64 + 64 * 2 * (2 + 2),
    "torchao_fp8_row": 64 * 128 + 64 * 4,
    "torchao_fp8_tensor": 64 * 128 + 4,
    # Scales in tiles of 128 x 4, whole ones.
    "torchao_nvfp4": 64 * 64 + 128 * 8 + 4,
}
ON_CPU = tuple(BYTES_OF_64_BY_128)
ON_GPU = ("torchao_fp8_dynamic_row", "torchao_fp8_dynamic_tensor", *ON_CPU)
FLOATS = tuple(name for name in ON_CPU if name != "torchao_int8_dynamic")
"""Recipes that multiply no integers; the others run only where the integer matmul is exact."""
each_kind = pytest.mark.parametrize(
    "names", [FLOATS, ("torchao_int8_dynamic",)], ids=["floats", "torchao_int8_dynamic"]
)


def in_place(loaded: LoadedModel, target: Target) -> Any:
    return loaded.module.get_submodule(target.name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@each_kind
def test_matmul_is_that_of_the_codes_and_the_float_layer_is_left_alone(
    names: tuple[str, ...], dtype: torch.dtype
) -> None:
    for name in names:
        if name == "torchao_nvfp4" and dtype is torch.float16:
            with pytest.raises(UnsupportedRecipe, match=r"float16.*quant\.skip"):
                check_matmuls(name, dtype, CPU)
        else:
            check_matmuls(name, dtype, CPU)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ON_GPU)
def test_matmul_on_a_gpu_is_that_of_the_codes(name: str) -> None:
    check_matmuls(name, torch.bfloat16, CUDA)


@each_kind
def test_stored_bytes_are_those_of_the_inner_tensors(names: tuple[str, ...]) -> None:
    loaded = wide(torch.bfloat16)
    for name in names:
        target, layer = pair(loaded, name)
        TorchaoBackend().apply(loaded, target, layer)
        installed = TorchaoBackend().inspect(loaded, target, layer)
        assert installed.fault is None, name
        assert installed.stored_bytes == BYTES_OF_64_BY_128[name], name
        loaded.restore()


def test_logits_are_those_of_the_fake_model() -> None:
    loaded, ids = wide(), torch.arange(40)[None]
    for name in ("torchao_int4_g32", "torchao_fp8_row"):
        chosen = conf_recipe(name)
        quantize_model(loaded, replace(chosen, backend=FakeBackend()))
        fake = loaded.module(ids).logits
        loaded.restore()
        quantize_model(loaded, chosen)
        real = loaded.module(ids).logits
        assert torch.allclose(real, fake, atol=1e-4), name
        with loaded.unquantized():
            assert not torch.allclose(loaded.module(ids).logits, fake, atol=0.1), name
        assert torch.equal(loaded.module(ids).logits, real)
        loaded.restore()


@pytest.mark.parametrize("name", ["torchao_int8_row", "torchao_int8_dynamic", "torchao_fp8_row"])
def test_tied_head_stays_quantized_when_the_library_ties_weights(
    tiny: LoadedModel, name: str
) -> None:
    embedding = tiny.module.get_input_embeddings().weight
    report = quantize_model(tiny, replace(conf_recipe(name), skip=("embed_tokens",))).report
    assert "lm_head" in {layer.name for layer in report.layers}
    tiny.module.tie_weights()
    audit_after(tiny)
    assert type(tiny.module.lm_head.weight).__name__ in ("Int8Tensor", "Float8Tensor")
    assert tiny.module.get_input_embeddings().weight is embedding
    tiny.restore()
    assert tiny.module.lm_head.weight is embedding


# What torchao does not do.


def test_rows_that_are_not_whole_groups_are_unsupported(tiny: LoadedModel) -> None:
    for name in ("torchao_int4_g32", "torchao_int4_g64", "torchao_int8_g64"):
        with pytest.raises(
            UnsupportedRecipe, match=r"q_proj: .*groups of \d+ weights, got 48.*skip"
        ):
            quantize_model(tiny, conf_recipe(name))


def test_torchao_itself_skips_such_a_weight_without_a_word() -> None:
    linear = nn.Linear(48, 16)
    config = torchao("prototype.quantization.int4").PrototypeInt4WeightOnlyConfig(
        group_size=32, set_inductor_config=False
    )
    torchao("quantization").quantize_(linear, config)
    assert type(linear.weight) is nn.Parameter


def test_weight_that_torchao_skipped_is_an_audit_error(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = wide()
    target, layer = pair(loaded, "torchao_int4_g32")
    monkeypatch.setattr(torchao("quantization"), "quantize_", lambda *_, **__: None)
    with pytest.raises(AuditError, match="Int4OpaqueTensor, got Parameter"):
        TorchaoBackend().apply(loaded, target, layer)


def test_sizes_that_a_kernel_does_not_take_are_unsupported(tiny: LoadedModel) -> None:
    with pytest.raises(UnsupportedRecipe, match=r"k_proj: .*multiples of 16.*got 24 x 48"):
        quantize_model(tiny, conf_recipe("torchao_nvfp4"))


def test_int4_scales_that_the_kernel_would_round_are_unsupported() -> None:
    loaded = wide(torch.bfloat16)
    target, layer = pair(loaded, "torchao_int4_g32")
    finer = replace(layer.format, scale=replace(layer.format.scale, storage=None))  # type: ignore[type-var]
    layer = replace(layer, format=finer, weight=quantize(target.weight.detach(), finer))
    with pytest.raises(UnsupportedRecipe, match=r"bfloat16 numbers.*torchao_int4"):
        TorchaoBackend().apply(loaded, target, layer)


def test_embedding_is_unsupported(tiny: LoadedModel) -> None:
    with pytest.raises(UnsupportedRecipe, match=r"embed_tokens, which is none; .*quant\.skip"):
        quantize_model(tiny, replace(conf_recipe("torchao_int8_row"), skip=("lm_head",)))


# What the audit finds.


def float_again(loaded: LoadedModel, target: Target) -> None:
    loaded.swap_module(target.name, target.owner)


def other_code(loaded: LoadedModel, target: Target) -> None:
    in_place(loaded, target).weight.qdata.view(torch.uint8)[3, 5] ^= 1


def other_scale(loaded: LoadedModel, target: Target) -> None:
    weight = in_place(loaded, target).weight
    scale = weight.scale if hasattr(weight, "scale") else weight.scale_and_zero
    scale.view(-1)[0] *= 1.01


def no_rounding(loaded: LoadedModel, target: Target) -> None:
    in_place(loaded, target).weight.act_quant_kwargs = None


DAMAGES = (
    ("torchao_int8_row", float_again, "type Parameter in the place of torchao's Int8Tensor"),
    ("torchao_int4_g32", float_again, "type Parameter"),
    ("torchao_int8_row", other_code, "other values"),
    ("torchao_fp8_row", other_code, "other values"),
    ("torchao_nvfp4", other_code, "other values"),
    ("torchao_int4_g64", other_code, "other values"),
    ("torchao_int8_g64", other_scale, "other values"),
    ("torchao_int4_g32", other_scale, "other values"),
    ("torchao_int8_dynamic", no_rounding, "activations are not rounded"),
)


@each_kind
def test_audit_finds(names: tuple[str, ...]) -> None:
    loaded, backend = wide(), TorchaoBackend()
    for name, damage, fault in DAMAGES:
        if name not in names:
            continue
        target, layer = pair(loaded, name)
        backend.apply(loaded, target, layer)
        assert backend.inspect(loaded, target, layer).fault is None, name
        damage(loaded, target)
        assert fault in (backend.inspect(loaded, target, layer).fault or ""), (name, fault)
        loaded.restore()


# What torchao leaves behind.


@pytest.mark.usefixtures("exact_int_mm")
def test_settings_of_the_compiler_stay_as_they_are() -> None:
    from torch._inductor import config

    start = config.get_config_copy()
    # Another test of this process may have let torchao change its settings already.
    config.load_config(start | {"coordinate_descent_tuning": False})
    before = config.get_config_copy()
    try:
        for name in ON_CPU:
            loaded = wide(torch.bfloat16)
            quantize_model(loaded, conf_recipe(name))
            assert config.get_config_copy() == before, name
        quantization = torchao("quantization")
        quantization.quantize_(nn.Linear(8, 8), quantization.Int8WeightOnlyConfig())
        assert config.get_config_copy() != before, "torchao changes nothing anymore"
    finally:
        config.load_config({key: start[key] for key in start if key in config.get_config_copy()})


def test_import_says_nothing() -> None:
    # The file alone: its package imports transformers, which imports torchao in its own way.
    code = f"import runpy; runpy.run_path({library.__file__!r})['torchao']('quantization')"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout + done.stderr == ""


def test_missing_library_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    torchao.cache_clear()
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    rules = tuple(conf_recipe("torchao_int8_row").rules.values())
    try:
        assert "pip install" in (TorchaoBackend().supports(rules, CPU) or "")
    finally:
        torchao.cache_clear()


def wide(dtype: torch.dtype = torch.float32, device: torch.device = CPU) -> LoadedModel:
    """A model whose sizes every group divides."""
    tokenizer = byte_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        initializer_range=0.3,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = LlamaForCausalLM(config).to(dtype)
    return LoadedModel(
        module=prepare(module, device),
        tokenizer=tokenizer,
        name="wide",
        dtype=dtype,
        device=device,
        fingerprint="wide",
    )


def pair(loaded: LoadedModel, name: str) -> tuple[Target, QuantizedLayer]:
    """Return the target `down_proj` `[64, 128]` and its weight as a recipe has it."""
    rule = conf_recipe(name).rules["linear"]
    target = next(t for t in find_targets(loaded.module) if t.name.endswith("down_proj"))
    return target, quantized_layer(target, rule.weight, rule.input)


def check_matmuls(name: str, dtype: torch.dtype, device: torch.device) -> None:
    loaded, chosen = wide(dtype, device), conf_recipe(name)
    rule = chosen.rules["linear"]
    floats = {t.name: t for t in find_targets(loaded.module)}
    before = {t.name: t.weight.detach().clone() for t in floats.values()}
    report = quantize_model(loaded, chosen).report
    assert len(report.layers) == 7
    for found in report.layers:
        module: Any = loaded.module.get_submodule(found.name)
        assert found.kernel is not None
        assert found.kernel.startswith(f"torchao {type(module.weight).__name__}: ")
        assert torch.equal(floats[found.name].weight, before[found.name])
        weight = quantize(before[found.name], rule.weight).dequantize()
        # A prompt and a single token: kernels may have a path for each.
        for rows in (24, 1):
            x = torch.randn(rows, module.in_features, generator=torch.Generator().manual_seed(1))
            x = x.to(device, dtype)
            given = x if rule.input is None else quantize(x, rule.input).dequantize()
            exact = F.linear(given.double(), weight.double())
            tolerance = TorchaoBackend.tolerance[str(dtype).removeprefix("torch.")]
            assert relative_error(module(x), exact) <= tolerance, (name, found.name, rows)
    loaded.restore()
    assert all(t.owner is loaded.module.get_submodule(t.name) for t in floats.values())
