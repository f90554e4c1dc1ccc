"""Layers of checkpoints that multiply codes: their matmuls against plain loops over the codes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

from harness.backends import stored_layers
from harness.backends.bitsandbytes.int8 import round_activation
from harness.backends.bitsandbytes.library import bitsandbytes
from harness.errors import AuditError, UnsupportedRecipe
from harness.models.checkpoints.methods import bitsandbytes as bitsandbytes_checkpoint
from harness.models.loaded import LoadedModel
from harness.models.sources.pretrained import LocalModel
from harness.models.sources.tiny import byte_tokenizer
from harness.recipe import QuantRecipe, quantize

pytest.importorskip("bitsandbytes")
CPU = torch.device("cpu")
UP = "model.layers.0.mlp.up_proj"
ROUNDOFF = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}


@pytest.mark.parametrize("double", [False, True], ids=["one level", "double quantization"])
def test_four_bits_multiply_in_the_type_of_the_model_and_float32_exactly(
    tmp_path: Path, double: bool
) -> None:
    # The checkpoint asks for matmuls in bfloat16, which is no choice of a float32 model's user.
    path = folder(
        tmp_path,
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=double,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    for dtype in ("float32", "bfloat16", "float16"):
        check_four_bits(load(path, dtype), dtype, double=double)


def check_four_bits(loaded: LoadedModel, dtype: str, *, double: bool) -> None:
    layer: Any = loaded.module.get_submodule(UP)
    state = layer.weight.quant_state
    packed = layer.weight.data.flatten().tolist()
    absmax = state.absmax.float()
    if double:
        absmax = state.state2.code[state.absmax.int()] * state.state2.absmax + state.offset
    levels = state.code.tolist()
    values = [levels[code] for byte in packed for code in (byte >> 4, byte & 15)]
    weight = torch.tensor(values, dtype=torch.float64).view(128, 64) * absmax.double().view(128, 1)
    assert torch.allclose(
        stored_layers._four_bit_operands(layer).weight.double(), weight, rtol=4 * 2.0**-24, atol=0
    )
    quantized = quantize(loaded, QuantRecipe())
    compute = quantized.report.compute
    assert quantized.report.kind == "real"
    assert compute is not None
    if dtype == "float32":
        assert compute.dtype == "float32"
        assert quantized.warnings == ()
    assert {p.dtype for p in loaded.module.parameters()} == {loaded.dtype, torch.uint8}
    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(1)).to(loaded.dtype)
    exact = x.double() @ weight.T
    error = (layer(x).double() - exact).norm() / exact.norm()
    # Rounded to the type of the matmul: activation, weight (or its scale alone), result.
    assert error < 3 * ROUNDOFF[dtype if dtype == "float32" else "bfloat16"]


def test_weight_that_is_no_whole_tiles_runs_on_every_processor() -> None:
    """The kernel for AVX512-BF16 stops with an AssertionError for 48 rows."""
    nn4: Any = bitsandbytes("nn")
    for dtype, u in ((torch.float32, 2.0**-24), (torch.bfloat16, 2.0**-8)):
        layer = nn4.Linear4bit(64, 48, bias=False, quant_type="nf4", compute_dtype=torch.bfloat16)
        weight = torch.randn(48, 64, generator=torch.Generator().manual_seed(0))
        layer.weight = nn4.Params4bit(weight, requires_grad=False, quant_type="nf4")
        layer = layer.to("cpu").train(mode=False)
        bitsandbytes_checkpoint.settle_matmuls(nn.Sequential(layer), dtype)
        x = torch.randn(3, 64, generator=torch.Generator().manual_seed(1)).to(dtype)
        exact = x.double() @ stored_layers._four_bit_operands(layer).weight.double().T
        with torch.inference_mode():
            found = layer(x).double()
        assert (found - exact).norm() < 3 * u * exact.norm(), dtype


@pytest.mark.usefixtures("exact_int_mm")
def test_llm_int8_is_as_exact_as_its_activations_in_float16_leave_it(tmp_path: Path) -> None:
    loaded = load(folder(tmp_path, load_in_8bit=True), "float32")
    quantized = quantize(loaded, QuantRecipe())
    compute = quantized.report.compute
    assert compute is not None
    # An activation moves by 2^-12 of itself at most, a code by 127 times that: about one in
    # thirty becomes its neighbour.
    assert 2.0**-11 < compute.rel_error < 2.0**-8
    assert any("though the model is float32" in warning for warning in quantized.warnings)


def test_outliers_are_not_rounded() -> None:
    x = torch.tensor([[0.3, -7.0, 1.0], [0.1, 2.0, -0.4]])
    found = round_activation(x, 6.0)
    assert torch.equal(found[:, 1], x[:, 1])
    # Scales are of what is left: 1.0 / 127 and 0.4 / 127.
    assert found[0, 0].item() == pytest.approx(round(0.3 * 127) / 127)
    assert found[1, 0].item() == pytest.approx(round(0.1 / 0.4 * 127) * 0.4 / 127)
    whole = round_activation(x, 0.0)
    assert whole[0, 0].item() == pytest.approx(round(0.3 / 7 * 127) * 7 / 127)


def test_processor_without_an_exact_integer_matmul_is_unsupported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load(folder(tmp_path, load_in_8bit=True), "float32")
    monkeypatch.setattr(stored_layers, "int8_saturation", lambda _: "it saturates")
    with pytest.raises(UnsupportedRecipe, match=r"LLM\.int8 checkpoint cannot run here: it sat"):
        quantize(loaded, QuantRecipe())


def test_matmul_of_other_codes_is_found(tmp_path: Path) -> None:
    loaded = load(folder(tmp_path, load_in_4bit=True), "float32")
    layer: Any = loaded.module.get_submodule("model.layers.0.mlp.gate_proj")
    layer.forward = lambda x: F.linear(x, stored_layers._four_bit_operands(layer).weight.flip(0))
    with pytest.raises(AuditError, match="must be that of its codes"):
        quantize(loaded, QuantRecipe())


@pytest.fixture(autouse=True, scope="module")
def eager() -> Iterator[None]:
    """Let the library not compile what it calls a few times."""
    with torch.compiler.set_stance("force_eager"):
        yield


def folder(parent: Path, **settings: Any) -> Path:
    """Let bitsandbytes quantize a random model."""
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 261}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(LlamaConfig(**sizes, **heads)).save_pretrained(parent / "float")
    made = AutoModelForCausalLM.from_pretrained(
        parent / "float",
        dtype=torch.float32,
        quantization_config=BitsAndBytesConfig(**settings),
        device_map={"": "cpu"},
    )
    made.save_pretrained(parent / "codes")
    byte_tokenizer().save_pretrained(parent / "codes")
    return parent / "codes"


def load(path: Path, dtype: Any) -> LoadedModel:
    return LocalModel(path=str(path), dtype=dtype).load(CPU)
