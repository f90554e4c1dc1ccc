"""Checkpoints that are quantized already: made by their own libraries or by hand, against a dequantization written here."""

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from harness.errors import ModelError
from harness.formats.codebook import Codebook
from harness.models.head import scorer
from harness.models.hub import LocalModel
from harness.models.prequantized import settings_of
from harness.models.source import LoadedModel
from harness.models.tiny import byte_tokenizer
from harness.quant.block_scaled import BlockScaled
from harness.quant.granularity import Granularity
from harness.quant.qlora import QLoRAScale
from harness.quant.quantize import fake_quantize
from harness.recipe import QuantRecipe, quantize

CPU = torch.device("cpu")
IDS = torch.arange(3, 43).view(2, 20)
TENSORS = "model.safetensors"
UP = "model.layers.0.mlp.up_proj"

Weights = dict[str, torch.Tensor]


@pytest.fixture(autouse=True, scope="module")
def eager() -> Iterator[None]:
    """Let the libraries not compile what they call a few times."""
    with torch.compiler.set_stance("force_eager"):
        yield


def llama() -> LlamaForCausalLM:
    """Return a random model; the widths of its layers are multiples of 64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=261,
                hidden_size=64,
                intermediate_size=128,
                num_hidden_layers=1,
                num_attention_heads=2,
                num_key_value_heads=1,
                max_position_embeddings=128,
                initializer_range=0.1,
                bos_token_id=None,
                eos_token_id=None,
            )
        ).eval()


@pytest.fixture(scope="module")
def float_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the float model."""
    folder = tmp_path_factory.mktemp("float")
    llama().save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def linears(module: nn.Module) -> dict[str, nn.Linear]:
    """Return the linear layers of the decoder."""
    return {
        name: layer
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear) and name != "lm_head"
    }


def load(folder: Path, dtype: Any = "float32") -> LoadedModel:
    return LocalModel(path=str(folder), dtype=dtype).load(CPU)


def logits(module: Any) -> torch.Tensor:
    with torch.inference_mode():
        return module(IDS).logits.float()


def expected_logits(weights: Callable[[str, torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Return the logits of the float model with other weights in its linear layers."""
    module = llama()
    for name, layer in linears(module).items():
        layer.weight.data = weights(name, layer.weight.data)
    return logits(module)


def written(folder: Path, tensors: Weights, settings: dict[str, Any]) -> Path:
    """Write a checkpoint: the float model's other weights, these tensors, and what config.json says of them."""
    llama().config.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    whole = llama().state_dict()
    replaced = {key.rpartition(".")[0] for key in tensors}
    rest = {key: w for key, w in whole.items() if key.rpartition(".")[0] not in replaced}
    contiguous = {key: tensor.contiguous() for key, tensor in (rest | tensors).items()}
    save_file(contiguous, folder / TENSORS, metadata={"format": "pt"})
    change_config(folder, quantization_config=settings)
    return folder


def change_config(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    config = json.loads(file.read_text(encoding="utf-8")) | changes
    file.write_text(json.dumps(config), encoding="utf-8")


def change_tensors(folder: Path, change: Callable[[Weights], object]) -> None:
    """Rewrite the tensors of a folder."""
    with safe_open(folder / TENSORS, "pt") as opened:
        metadata = opened.metadata()
    tensors = load_file(folder / TENSORS)
    change(tensors)
    save_file(tensors, folder / TENSORS, metadata=metadata)


def compressed(folder: Path, bits: int, group: int | None) -> Path:
    """Let compressed-tensors write INT8 weights and inputs, or packed INT4 weights in groups."""
    ct = pytest.importorskip("compressed_tensors.quantization")
    compressors = pytest.importorskip("compressed_tensors.compressors")
    weights = ct.QuantizationArgs(
        num_bits=bits, strategy="group" if group else "channel", group_size=group, symmetric=True
    )
    inputs = None if group else ct.QuantizationArgs(num_bits=8, strategy="token", dynamic=True)
    layout = "pack-quantized" if group else "int-quantized"
    plan = ct.QuantizationScheme(targets=["Linear"], weights=weights, input_activations=inputs)
    settings = ct.QuantizationConfig(
        config_groups={"all": plan}, ignore=["lm_head"], format=layout, quantization_status="frozen"
    )
    module = llama()
    ct.apply_quantization_config(module, settings)
    for layer in linears(module).values():
        blocks = layer.weight.detach().unflatten(-1, (-1, group or layer.in_features))
        scale: Any = layer.weight_scale
        scale.data = blocks.abs().amax(-1) / (2 ** (bits - 1) - 1)
    compressor = compressors.ModelCompressor.from_pretrained_model(module, layout)
    compressor.compress_model(module)
    module.save_pretrained(folder)
    compressor.update_config(str(folder))
    byte_tokenizer().save_pretrained(folder)
    return folder


def rounded(weight: torch.Tensor, bits: int, group: int | None) -> torch.Tensor:
    """Return a weight in symmetric integers of a group or row."""
    blocks = weight.unflatten(-1, (-1, group or weight.shape[-1]))
    scale = blocks.abs().amax(-1, keepdim=True) / (2 ** (bits - 1) - 1)
    return ((blocks / scale).round() * scale).flatten(-2)


class RoundedInputs(nn.Linear):
    """A linear layer that rounds each token to INT8: 127 steps from 0 to its largest magnitude, as vLLM has them."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = x.abs().amax(-1, keepdim=True) / 127
        return super().forward((x / scale).round() * scale)


def library_folder(float_folder: Path, folder: Path, method: str) -> Path:
    """Let transformers and a library quantize the float folder."""
    if method == "torchao":
        transformers = pytest.importorskip("transformers")
        library = pytest.importorskip("torchao.quantization")
        config = transformers.TorchAoConfig(library.Int8WeightOnlyConfig())
    else:
        from transformers import BitsAndBytesConfig

        pytest.importorskip("bitsandbytes")
        four = {"load_in_4bit": True, "bnb_4bit_quant_type": method[:3]}
        double = {"bnb_4bit_use_double_quant": method.endswith("dq")}
        config = BitsAndBytesConfig(
            **({"load_in_8bit": True} if method == "llm_int8" else four | double)
        )
    module = AutoModelForCausalLM.from_pretrained(
        float_folder, dtype=torch.float32, quantization_config=config, device_map={"": "cpu"}
    )
    module.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def check_facts(loaded: LoadedModel, folder: Path, *, kind: str, bits: tuple[float, float]) -> None:
    """Compare what is said of the checkpoint with its files and with the float model."""
    facts, module = loaded.prequantized, llama()
    assert facts is not None
    assert facts.kind == kind
    assert facts.num_parameters == sum(p.numel() for p in module.parameters())
    assert facts.num_quantized == sum(layer.weight.numel() for layer in linears(module).values())
    stored = load_file(folder / TENSORS).values()
    assert facts.file_bytes == sum(tensor.nbytes for tensor in stored)
    assert bits[0] <= facts.bits_per_weight <= bits[1]
    assert loaded.origin == facts.origin
    if kind == "fake-quant":
        assert facts.stored_bytes >= 4 * facts.num_parameters
        assert facts.origin.startswith("dequantized ")
    else:
        # In memory there are the codes of the files, and the constants of the rotation.
        assert abs(facts.stored_bytes - facts.file_bytes) < 4000
    with scorer(loaded) as halves:
        found = halves.logits(halves.hidden(IDS))
    assert torch.equal(found, logits(loaded.module))


def test_compressed_tensors_in_packed_int4(tmp_path: Path) -> None:
    folder = compressed(tmp_path, 4, 16)
    loaded = load(folder)
    expected = expected_logits(lambda _, weight: rounded(weight, 4, 16))
    torch.testing.assert_close(logits(loaded.module), expected, rtol=1e-5, atol=1e-5)
    check_facts(loaded, folder, kind="fake-quant", bits=(6.0, 6.1))
    assert "int4 weights in groups of 16" in loaded.origin


def test_compressed_tensors_with_int8_inputs(tmp_path: Path) -> None:
    folder = compressed(tmp_path, 8, None)
    loaded = load(folder)
    module = llama()
    for name, layer in linears(module).items():
        layer.weight.data = rounded(layer.weight.data, 8, None)
        layer.__class__ = RoundedInputs
        assert name in dict(loaded.module.named_modules())
    expected = logits(module)
    torch.testing.assert_close(logits(loaded.module), expected, rtol=1e-4, atol=1e-4)
    without = expected_logits(lambda _, weight: rounded(weight, 8, None))
    assert (expected - without).abs().max() > 1e-2
    check_facts(loaded, folder, kind="fake-quant", bits=(8.0, 8.7))
    assert "int8 weights by channel, int8 inputs by token" in loaded.origin


@pytest.mark.parametrize("method", ["nf4", "nf4_dq", "fp4"])
def test_four_bits_of_bitsandbytes(float_folder: Path, tmp_path: Path, method: str) -> None:
    folder = library_folder(float_folder, tmp_path, method)
    loaded = load(folder)
    double = method.endswith("dq")
    fmt = BlockScaled(
        element=Codebook(name=method[:3]),
        granularity=Granularity(block=(1, 64), flat=True),
        scale=QLoRAScale(double_quantization=double),
    )
    expected = expected_logits(lambda _, weight: fake_quantize(weight, fmt))
    # Double quantization on a CPU: the library is now and then one code off the nearest.
    within = 0.05 if double else 1e-5
    torch.testing.assert_close(logits(loaded.module), expected, rtol=0, atol=within)
    check_facts(loaded, folder, kind="real", bits=(4.1, 7.0))
    assert loaded.origin.startswith(f"bitsandbytes checkpoint ({method[:3]} weights")
    assert ("double" in loaded.origin) is double


def test_block_scales_that_bitsandbytes_saves_transposed_are_turned_back(
    float_folder: Path, tmp_path: Path
) -> None:
    """As 0.50.2 does after a forward pass on a CPU with instructions for bfloat16: `[K / 64, N]` in bfloat16."""
    folder = library_folder(float_folder, tmp_path, "nf4")
    expected = {}
    for name, layer in linears(llama()).items():
        blocks = layer.weight.detach().view(-1, 64)
        scales = blocks.abs().amax(-1, keepdim=True)
        codes = blocks / scales
        levels = Codebook(name="nf4").values()
        nearest = (codes[..., None] - levels).abs().argmin(-1)
        expected[name] = (levels[nearest] * scales.bfloat16().float()).view(layer.weight.shape)

    def transpose(tensors: Weights) -> None:
        for name, layer in linears(llama()).items():
            key = f"{name}.weight.absmax"
            rows = tensors[key].view(layer.out_features, -1)
            tensors[key] = rows.T.bfloat16().contiguous()

    change_tensors(folder, transpose)
    found = load(folder).module
    for name, layer in linears(found).items():
        weight: Any = layer.weight
        functional = pytest.importorskip("bitsandbytes.functional")
        exact = functional.dequantize_4bit(weight.data, weight.quant_state)
        torch.testing.assert_close(exact.float(), expected[name], rtol=0, atol=1e-6)
    down = linears(found)["model.layers.0.mlp.down_proj"].weight
    assert down.quant_state.absmax.shape == (64 * 2,), "two blocks a row, so that order matters"


@pytest.mark.filterwarnings("ignore")
def test_gpt_2_of_gptq(tmp_path: Path) -> None:
    """Its layers are Conv1D, which store `[K, N]`; GPTQ's codes are of `[N, K]` there too."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = GPT2Config(
            vocab_size=261, n_embd=64, n_layer=1, n_head=2, n_positions=128, bos_token_id=None
        )
        config.eos_token_id = None
        module = GPT2LMHeadModel(config).eval()
    module.save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    tensors = load_file(tmp_path / TENSORS)
    for key in [k for k in tensors if re.search(r"(c_attn|c_proj|c_fc)\.weight", k)]:
        weight = tensors.pop(key)
        parts, values = gptq_parts(weight.T.numpy(), 4, 32, zero_less=1, order=False)
        path = key.removesuffix(".weight")
        tensors |= {f"{path}.{part}": torch.from_numpy(array) for part, array in parts.items()}
        module.get_parameter(key).data = torch.from_numpy(values).T
    save_file(tensors, tmp_path / TENSORS, metadata={"format": "pt"})
    settings = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False}
    change_config(tmp_path, quantization_config=settings)
    loaded = load(tmp_path)
    torch.testing.assert_close(logits(loaded.module), logits(module), rtol=1e-5, atol=1e-5)
    assert loaded.prequantized is not None
    assert loaded.prequantized.num_quantized == 12 * 64 * 64


@pytest.mark.usefixtures("exact_int_mm")
def test_llm_int8_of_bitsandbytes(float_folder: Path, tmp_path: Path) -> None:
    folder = library_folder(float_folder, tmp_path, "llm_int8")
    loaded = load(folder)
    found = logits(loaded.module)
    expected = expected_logits(lambda _, weight: rounded(weight, 8, None))
    exact = logits(llama())
    assert 0 < (found - exact).norm() < 3 * (expected - exact).norm()
    check_facts(loaded, folder, kind="real", bits=(8.0, 8.7))
    assert "LLM.int8, threshold 6.0" in loaded.origin
    inputs = quantize(loaded, QuantRecipe()).report.input_formats
    assert inputs == {"checkpoint": "int8 by token, features beyond 6.0 in float"}


def test_int8_of_torchao(float_folder: Path, tmp_path: Path) -> None:
    folder = library_folder(float_folder, tmp_path, "torchao")
    loaded = load(folder)
    found = logits(loaded.module)
    tensors = load_file(folder / TENSORS)

    def dequantized(name: str, _: torch.Tensor) -> torch.Tensor:
        return tensors[f"{name}._weight_qdata"].float() * tensors[f"{name}._weight_scale"]

    torch.testing.assert_close(found, expected_logits(dequantized), rtol=1e-4, atol=1e-4)
    check_facts(loaded, folder, kind="real", bits=(8.0, 9.0))
    assert loaded.origin == "torchao checkpoint (int8 weights by row)"


def fp8_layers(statistic: str, *, tensor: bool) -> tuple[Weights, Weights]:
    """Return FP8 weights with a scale for the tensor or for each row, and what they stand for."""
    tensors, stands_for = {}, {}
    for name, layer in linears(llama()).items():
        weight = layer.weight.detach()
        largest = weight.abs().max().view(1, 1) if tensor else weight.abs().amax(1, keepdim=True)
        scale = largest / 448
        codes = (weight / scale).to(torch.float8_e4m3fn)
        tensors |= {f"{name}.weight": codes, f"{name}.{statistic}": scale}
        stands_for[name] = codes.float() * scale
    return tensors, stands_for


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_fp8_without_a_kernel_is_dequantized_to_the_model_s_type(
    tmp_path: Path, dtype: str
) -> None:
    tensors, stands_for = fp8_layers("weight_scale_inv", tensor=True)
    settings = {
        "quant_method": "fp8",
        "weight_block_size": [128, 128],
        "activation_scheme": "dynamic",
        "modules_to_not_convert": ["lm_head"],
    }
    loaded = load(written(tmp_path, tensors, settings), dtype)
    assert {p.dtype for p in loaded.module.parameters()} == {loaded.dtype}
    for name, layer in linears(loaded.module).items():
        assert torch.equal(layer.weight, stands_for[name].to(loaded.dtype)), name
    expected = (
        "dequantized fp8 checkpoint (fp8 weights in blocks of 128x128, fp8 inputs in groups of 128)"
    )
    assert loaded.origin == expected


def test_fp8_of_compressed_tensors(tmp_path: Path) -> None:
    pytest.importorskip("compressed_tensors")
    tensors, stands_for = fp8_layers("weight_scale", tensor=False)
    numbers = {"num_bits": 8, "type": "float", "strategy": "channel"}
    settings = {
        "quant_method": "compressed-tensors",
        "format": "float-quantized",
        "ignore": ["lm_head"],
        "quantization_status": "compressed",
        "config_groups": {"all": {"targets": ["Linear"], "weights": numbers}},
    }
    loaded = load(written(tmp_path, tensors, settings))
    expected = expected_logits(lambda name, _: stands_for[name])
    torch.testing.assert_close(logits(loaded.module), expected, rtol=1e-5, atol=1e-5)
    check_facts(loaded, tmp_path, kind="fake-quant", bits=(8.0, 9.0))


def pack(numbers: np.ndarray, bits: int) -> np.ndarray:
    """Write numbers `[R, C]` into int32 words along the rows, the lowest bits first, one bit at a time."""
    rows, count = numbers.shape
    words = np.zeros((rows, count * bits // 32), dtype=np.uint64)
    for index in range(count * bits):
        bit = (numbers[:, index // bits].astype(np.uint64) >> np.uint64(index % bits)) & np.uint64(
            1
        )
        words[:, index // 32] |= bit << np.uint64(index % 32)
    return words.astype(np.uint32).view(np.int32)


def gptq_parts(
    weight: np.ndarray, bits: int, size: int, *, zero_less: int, order: bool
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Quantize a weight `[N, K]` in groups with zero points; return the tensors of a layer, and what they stand for."""
    outputs, inputs = weight.shape
    rank = np.random.default_rng(0).permutation(inputs) if order else np.arange(inputs)
    group = rank // size
    most = 2**bits - 1
    scales = np.zeros((inputs // size, outputs), dtype=np.float16)
    zeros, codes = np.zeros(scales.shape, dtype=np.int64), np.zeros((inputs, outputs), np.int64)
    values = np.zeros((inputs, outputs), dtype=np.float32)
    for g in range(inputs // size):
        mine = weight[:, group == g].T
        low, high = np.minimum(mine.min(0), 0), np.maximum(mine.max(0), 0)
        scales[g] = ((high - low) / most).astype(np.float16)
        step = scales[g].astype(np.float32)
        zeros[g] = np.clip(np.round(-low / step), 1, most)
        codes[group == g] = np.clip(np.round(mine / step) + zeros[g], 0, most)
        values[group == g] = (codes[group == g] - zeros[g]) * step
    parts = {
        "qweight": pack(codes.T, bits).T.copy(),
        "qzeros": pack(zeros - zero_less, bits),
        "scales": scales,
        "g_idx": group.astype(np.int32),
    }
    return parts, values.T.copy()


def gptq_folder(
    folder: Path,
    bits: int = 4,
    *,
    layout: str | None = "gptq",
    order: bool = False,
    keep_g_idx: bool = True,
) -> tuple[Path, Weights]:
    """Write a GPTQ checkpoint by hand; return its folder and the weights it stands for."""
    tensors: Weights = {}
    stands_for: Weights = {}
    for name, layer in linears(llama()).items():
        parts, values = gptq_parts(
            layer.weight.detach().numpy(),
            bits,
            32,
            zero_less=0 if layout == "gptq_v2" else 1,
            order=order,
        )
        kept = {key: part for key, part in parts.items() if keep_g_idx or key != "g_idx"}
        tensors |= {f"{name}.{key}": torch.from_numpy(part) for key, part in kept.items()}
        stands_for[name] = torch.from_numpy(values)
    settings = {"quant_method": "gptq", "bits": bits, "group_size": 32, "desc_act": order}
    if layout is not None:
        settings["checkpoint_format"] = layout
    return written(folder, tensors, settings), stands_for


@pytest.mark.parametrize("layout", ["gptq", "gptq_v2"])
@pytest.mark.parametrize("order", [False, True], ids=["in order", "desc_act"])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_gptq_layouts(tmp_path: Path, bits: int, order: bool, layout: str) -> None:
    folder, stands_for = gptq_folder(tmp_path, bits, layout=layout, order=order)
    loaded = load(folder)
    for name, layer in linears(loaded.module).items():
        assert torch.equal(layer.weight, stands_for[name]), name
    expected = expected_logits(lambda name, _: stands_for[name])
    assert torch.equal(logits(loaded.module), expected)
    check_facts(loaded, folder, kind="fake-quant", bits=(bits + 0.5, bits + 1.7))
    assert f"gptq checkpoint (int{bits} weights in groups of 32" in loaded.origin
    assert ("order of activations" in loaded.origin) is order


def test_gptq_of_older_writers_has_no_layout_and_no_g_idx(tmp_path: Path) -> None:
    folder, stands_for = gptq_folder(tmp_path, layout=None, keep_g_idx=False)
    expected = expected_logits(lambda name, _: stands_for[name])
    assert torch.equal(logits(load(folder).module), expected)


def test_gptq_three_bits_cross_words_as_autogptq_packs_them() -> None:
    """Ten numbers and two bits of the eleventh in the first word of three; 1 + 10 + 1, and 2 + 10 in the others."""
    from harness.models.gptq_checkpoint import unpack

    n = np.random.default_rng(0).integers(0, 8, 32)
    words = [0, 0, 0]
    for j in range(10):
        words[0] |= int(n[j]) << (3 * j)
        words[1] |= int(n[11 + j]) << (3 * j + 1)
        words[2] |= int(n[22 + j]) << (3 * j + 2)
    words[0] |= (int(n[10]) & 3) << 30
    words[1] |= int(n[10]) >> 2 | (int(n[21]) & 1) << 31
    words[2] |= int(n[21]) >> 1
    packed = torch.from_numpy(np.array([words], dtype=np.uint32).view(np.int32))
    assert unpack(packed, 3).tolist() == [n.tolist()]


def test_gptq_keeps_biases_and_drops_those_of_zeros(tmp_path: Path) -> None:
    folder, stands_for = gptq_folder(tmp_path)
    change_tensors(folder, lambda t: t.update({f"{UP}.bias": torch.zeros(128)}))
    expected = expected_logits(lambda name, _: stands_for[name])
    assert torch.equal(logits(load(folder).module), expected)
    change_tensors(folder, lambda t: t.update({f"{UP}.bias": torch.ones(128)}))
    with pytest.raises(ModelError, match=r"must be of use, .* leaves out: .*up_proj.bias"):
        load(folder)


def test_gptq_in_bfloat16_is_rounded_once(tmp_path: Path) -> None:
    folder, stands_for = gptq_folder(tmp_path)
    loaded = load(folder, "bfloat16")
    assert all(
        torch.equal(layer.weight, stands_for[name].bfloat16())
        for name, layer in linears(loaded.module).items()
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t: t[f"{UP}.qzeros"].fill_(-1), "a zero point of 0"),
        (lambda t: t[f"{UP}.g_idx"].fill_(7), "groups up to 7"),
        (lambda t: t.pop(f"{UP}.scales"), "no scales"),
        (lambda t: t.update({f"{UP}.scales": torch.ones(2, 64)}), "shapes that do not fit"),
        (lambda t: t.update({f"{UP}.g_idx": t[f"{UP}.g_idx"][:50]}), "bits a code"),
        (lambda t: t.update({f"{UP}.qweight": t[f"{UP}.qweight"].long()}), "not in int32"),
        (lambda t: [t.pop(key) for key in list(t) if key.startswith(UP)], f"lacks 1: {UP}.weight"),
    ],
)
def test_damaged_gptq_layer_is_named(
    tmp_path: Path, change: Callable[[Weights], object], reason: str
) -> None:
    folder, _ = gptq_folder(tmp_path)
    change_tensors(folder, change)
    with pytest.raises(ModelError, match=reason) as error:
        load(folder)
    assert "up_proj" in str(error.value)
    assert str(folder) in str(error.value)


def test_other_layouts_of_gptq_are_refused(tmp_path: Path) -> None:
    folder, _ = gptq_folder(tmp_path, layout="marlin")
    with pytest.raises(ModelError, match=r"layout gptq or gptq_v2, got 'marlin'"):
        load(folder)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("method", "lost"),
    [
        ("int4", "weight_packed"),
        ("int4", "weight_scale"),
        ("int8", "weight_scale"),
        ("nf4_dq", "weight.nested_absmax"),
        ("nf4_dq", "weight.absmax"),
        ("llm_int8", "SCB"),
        ("torchao", "_weight_scale"),
    ],
)
def test_lost_tensor_is_a_model_error(
    float_folder: Path, tmp_path: Path, method: str, lost: str
) -> None:
    if method in ("int4", "int8"):
        compressed(tmp_path, 4 if method == "int4" else 8, 16 if method == "int4" else None)
    else:
        library_folder(float_folder, tmp_path, method)
    change_tensors(tmp_path, lambda tensors: tensors.pop(f"{UP}.{lost}"))
    with pytest.raises(ModelError, match=str(tmp_path)):
        load(tmp_path)


def test_tensor_that_is_left_out_is_a_model_error(tmp_path: Path) -> None:
    compressed(tmp_path, 8, None)
    change_tensors(tmp_path, lambda t: t.update({f"{UP}.input_scale": torch.ones(1)}))
    with pytest.raises(ModelError, match=r"must be of use, .* leaves out: .*input_scale"):
        load(tmp_path)


def test_head_with_rounded_inputs_is_refused(tmp_path: Path) -> None:
    compressed(tmp_path, 8, None)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    config["quantization_config"]["ignore"] = []
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")

    def add_head(tensors: Weights) -> None:
        tensors["lm_head.weight"] = torch.ones(261, 64, dtype=torch.int8)
        tensors["lm_head.weight_scale"] = torch.ones(261, 1)

    change_tensors(tmp_path, add_head)
    with pytest.raises(ModelError, match="add lm_head to the ignored layers"):
        load(tmp_path)


def test_unknown_method_is_refused_and_not_taken_for_float(
    float_folder: Path, tmp_path: Path
) -> None:
    written(tmp_path, {}, {"quant_method": "nonesuch", "bits": 8})
    with pytest.raises(
        ModelError, match=r"method that transformers loads \(.*gptq.*\), got 'nonesuch'"
    ):
        load(tmp_path)


@pytest.mark.filterwarnings("ignore")
def test_float_weights_that_are_said_to_be_quantized_are_refused(tmp_path: Path) -> None:
    written(tmp_path, {}, {"quant_method": "mxfp4"})
    with pytest.raises(ModelError, match="must hold codes, got float weights alone"):
        load(tmp_path)


def test_codes_that_nothing_describes_are_refused(tmp_path: Path) -> None:
    folder = written(tmp_path, {}, {})
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    del config["quantization_config"]
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert load(folder).prequantized is None

    def to_fp8(tensors: Weights) -> None:
        tensors[f"{UP}.weight"] = tensors[f"{UP}.weight"].to(torch.float8_e4m3fn)

    change_tensors(folder, to_fp8)
    with pytest.raises(ModelError, match=r"got 1 others .*up_proj.weight \(F8_E4M3\)"):
        load(folder)


@pytest.mark.parametrize("method", ["hqq", "fp_quant", "quanto", "higgs", "aqlm", "fbgemm_fp8"])
def test_method_that_nobody_compared_on_a_cpu_is_refused(tmp_path: Path, method: str) -> None:
    written(tmp_path, {}, {"quant_method": method})
    expected = rf"compared with its own arithmetic on a CPU \(.*gptq.*torchao\), got {method} in"
    with pytest.raises(ModelError, match=expected):
        load(tmp_path)


def test_missing_library_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compressed(tmp_path, 8, None)
    monkeypatch.setitem(sys.modules, "compressed_tensors.quantization", None)
    with pytest.raises(ModelError, match=r"library of a compressed-tensors checkpoint must be"):
        load(tmp_path)


def test_settings_are_found_where_configs_have_them(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    settings = {"quant_method": "gptq"}
    for config, expected in [
        ({}, None),
        ({"quantization_config": settings}, settings),
        ({"compression_config": settings}, settings),
        ({"text_config": {"quantization_config": settings}}, settings),
        ({"quantization_config": None}, None),
        ([], None),
    ]:
        file.write_text(json.dumps(config), encoding="utf-8")
        assert settings_of(tmp_path) == expected
    file.write_text("{", encoding="utf-8")
    assert settings_of(tmp_path) is None
