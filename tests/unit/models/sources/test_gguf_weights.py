"""GGUF files of several architectures, written as llama.cpp does, against the package gguf."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from harness.backends.layer import LayerRule
from harness.errors import ModelError
from harness.formats.integer import Integer
from harness.models.loaded import LoadedModel
from harness.models.sources.gguf import GgufModel
from harness.models.sources.gguf_copy import converted_folder
from harness.quant.granularity import Granularity
from harness.quant.primitives import fake_quantize
from harness.quant.schemes.block_scaled import BlockScaled
from harness.recipe import QuantRecipe, quantize

CPU = torch.device("cpu")
IDS = torch.arange(40)[None]
VOCABULARY = [*sorted(ByteLevel.alphabet()), "ab", "<end>"]
HEADS, KV_HEADS, HEAD_DIM = 4, 2, 8
SIZES: dict[str, Any] = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
}
LEAVES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
}
PLAIN_NORMS = {"post_attention_layernorm": "ffn_norm"}
GEMMA_NORMS = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
OUTSIDE = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}

Build = Callable[[], PreTrainedModel]
Changes = Mapping[str, Any]

MODELS: dict[str, Build] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, rope_theta=5e4)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES, rope_theta=1e6)),
    "qwen3": lambda: Qwen3ForCausalLM(
        Qwen3Config(**SIZES, head_dim=128, rope_theta=1e6)
    ),
    "gemma2": lambda: Gemma2ForCausalLM(
        Gemma2Config(
            **SIZES, head_dim=HEAD_DIM, query_pre_attn_scalar=HEAD_DIM, sliding_window=16,
            attn_implementation="eager",
        )
    ),
    "gemma3": lambda: Gemma3ForCausalLM(
        Gemma3TextConfig(
            **SIZES | {"num_hidden_layers": 6}, head_dim=HEAD_DIM, query_pre_attn_scalar=HEAD_DIM,
            sliding_window=16,
        )
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))


def random(architecture: str) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = MODELS[architecture]().eval()
        for name, parameter in module.named_parameters():
            if "norm" in name or "bias" in name:
                parameter.data += 0.3 * torch.randn_like(parameter)
    return module.requires_grad_(False)


def gguf_name(name: str, architecture: str) -> str:
    """Return llama.cpp's name of a parameter."""
    if name in OUTSIDE:
        return OUTSIDE[name]
    _, _, layer, rest = name.split(".", 3)
    leaf, _, suffix = rest.rpartition(".")
    norms = GEMMA_NORMS if architecture.startswith("gemma") else PLAIN_NORMS
    return f"blk.{layer}.{(LEAVES | norms)[leaf]}.{suffix}"


def interleave(weight: np.ndarray, heads: int) -> np.ndarray:
    """Put the rows of each head in llama.cpp's order: the two rotating halves interleaved."""
    return weight.reshape(heads, 2, -1, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def separate(weight: np.ndarray, heads: int) -> np.ndarray:
    return weight.reshape(heads, -1, 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def heads_of(name: str, architecture: str) -> int:
    """Return how many heads a permuted weight has; 0 for others."""
    if architecture != "llama":
        return 0
    return HEADS if ".q_proj." in name else KV_HEADS if ".k_proj." in name else 0


def write(
    file: Path,
    architecture: str,
    module: PreTrainedModel,
    kinds: Callable[[str], Kind],
    *,
    settings: Changes | None = None,
    extra: Mapping[str, np.ndarray] | None = None,
) -> dict[str, torch.Tensor]:
    """Write a model to a file; return the values that gguf reads back, by the model's names."""
    config: Any = module.config
    writer = gguf.GGUFWriter(file, architecture)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    theta = config.rope_parameters.get("full_attention", config.rope_parameters)["rope_theta"]
    writer.add_rope_freq_base(theta)
    if architecture == "llama":
        writer.add_rope_dimension_count(HEAD_DIM)
    if architecture in ("qwen3", "gemma2", "gemma3"):
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
    if architecture.startswith("gemma"):
        writer.add_sliding_window(config.sliding_window)
    if architecture == "gemma2":
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
    for key, value in (settings or {}).items():
        add = writer.add_string if isinstance(value, str) else writer.add_float32
        add(f"{architecture}.{key}", value)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(VOCABULARY)
    writer.add_token_types([gguf.TokenType.NORMAL] * 257 + [gguf.TokenType.CONTROL])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(257)
    writer.add_eos_token_id(257)
    read = {}
    for name, parameter in module.named_parameters():
        values = parameter.numpy()
        is_gemma_norm = architecture.startswith("gemma") and "norm" in name
        if is_gemma_norm:
            values = values + np.float32(1)
        if heads := heads_of(name, architecture):
            values = interleave(values, heads)
        kind = kinds(name) if values.ndim > 1 else Kind.F32
        blocks = gguf.quants.quantize(values, kind)
        writer.add_tensor(gguf_name(name, architecture), blocks, raw_dtype=kind)
        back = gguf.quants.dequantize(blocks, kind)
        back = separate(back, heads) if heads else back - np.float32(is_gemma_norm)
        read[name] = torch.from_numpy(np.ascontiguousarray(back))
    for name, values in (extra or {}).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return read


def load(file: Path, dtype: Any = "float32") -> LoadedModel:
    return GgufModel(path=str(file), dtype=dtype).load(CPU)


def logits(module: Any) -> torch.Tensor:
    with torch.inference_mode():
        return module(IDS).logits


def mixed(name: str) -> Kind:
    """Return one type for each kind of matrix."""
    found = {"q_proj": Kind.Q8_0, "k_proj": Kind.Q4_1, "up_proj": Kind.Q4_0, "o_proj": Kind.F16}
    return next((kind for part, kind in found.items() if part in name), Kind.F32)


@pytest.mark.parametrize("architecture", MODELS)
def test_every_tensor_has_the_values_of_the_file(tmp_path: Path, architecture: str) -> None:
    module = random(architecture)
    expected = write(tmp_path / "m.gguf", architecture, module, mixed)
    folder = converted_folder(tmp_path / "m.gguf", "a" * 64)
    attention = module.config._attn_implementation
    loaded = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation=attention
    )
    found = dict(loaded.named_parameters())
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name].dtype is torch.float32
        assert torch.equal(found[name], values), name
    module.load_state_dict(expected, strict=False)
    assert torch.equal(logits(loaded), logits(module))


def test_values_are_rounded_once(tmp_path: Path) -> None:
    expected = write(tmp_path / "m.gguf", "llama", random("llama"), lambda _: Kind.F32)
    for dtype in (torch.bfloat16, torch.float16):
        loaded = load(tmp_path / "m.gguf", str(dtype).removeprefix("torch."))
        for name, parameter in loaded.module.named_parameters():
            assert torch.equal(parameter, expected[name].to(dtype)), (name, dtype)


def test_copy_has_the_smallest_exact_types(tmp_path: Path) -> None:
    write(tmp_path / "m.gguf", "llama", random("llama"), lambda _: Kind.F16)
    load(tmp_path / "m.gguf")
    (copy,) = (tmp_path / "cache").glob("gguf-*/model.safetensors")
    values = sum(parameter.numel() for parameter in random("llama").parameters())
    # Two bytes a value; norms are float32 in the file, and names take some thousand bytes.
    assert copy.stat().st_size < 2 * values + 4096


@pytest.fixture(scope="module")
def mixed_llama(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[LoadedModel, dict[str, torch.Tensor]]:
    """A Llama out of a file of several types, and the values of the file."""
    folder = tmp_path_factory.mktemp("mixed")
    expected = write(folder / "m.gguf", "llama", random("llama"), mixed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARNESS_CACHE", str(folder / "cache"))
        return load(folder / "m.gguf"), expected


def test_report_has_the_bits_of_the_file(
    mixed_llama: tuple[LoadedModel, dict[str, torch.Tensor]],
) -> None:
    loaded, module = mixed_llama[0], random("llama")
    report = quantize(loaded, QuantRecipe(name="none")).report
    sizes = {name: p.numel() for name, p in module.named_parameters()}
    q8, q4_1, q4_0 = (
        sum(size for name, size in sizes.items() if part in name)
        for part in ("q_proj", "k_proj", "up_proj")
    )
    # A block of 32 has 32 bytes and a float16 scale, 16 and a scale and a minimum, or 16 and a
    # scale.
    codes = q8 * 34 // 32 + q4_1 * 20 // 32 + q4_0 * 18 // 32
    floats = 2 * sum(size for name, size in sizes.items() if "o_proj" in name)
    floats += 4 * (sum(sizes.values()) - floats // 2 - q8 - q4_1 - q4_0)
    assert report.kind == "fake-quant"
    assert report.backend == "gguf"
    assert set(report.formats["checkpoint"].split(", ")) == {"Q8_0", "Q4_1", "Q4_0"}
    assert report.bits_per_weight == 8 * codes / (q8 + q4_1 + q4_0)
    assert report.coverage == (q8 + q4_1 + q4_0) / sum(sizes.values())
    assert report.model_bytes == codes + floats


def blocks_of_k(kind: Kind, rows: int, columns: int, rng: np.random.Generator) -> np.ndarray:
    """Return random blocks of 256 with scales near 2**-9, which are float16 at one end."""
    count, size = columns // 256, gguf.GGML_QUANT_SIZES[kind][1]
    blocks = rng.integers(0, 256, (rows, count, size), dtype=np.uint8)
    scale = np.frombuffer(np.float16(2.0**-9).tobytes(), np.uint8)
    if kind is Kind.Q4_K:
        blocks[..., :2], blocks[..., 2:4] = scale, scale
    else:
        blocks[..., -2:] = scale
    return blocks.reshape(rows, -1)


def test_k_quants_are_read_exactly_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in Q4_K_M files: some matrices in Q6_K, the others in Q4_K."""
    sizes = SIZES | {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 1}
    module = LlamaForCausalLM(LlamaConfig(**sizes)).requires_grad_(False)
    rng = np.random.default_rng(0)
    monkeypatch.setattr(f"{__name__}.HEAD_DIM", 64)
    monkeypatch.setattr(
        gguf.quants,
        "quantize",
        lambda values, kind: values if kind is Kind.F32 else blocks_of_k(kind, *values.shape, rng),
    )
    large = ("down_proj", "lm_head")
    expected = write(
        tmp_path / "m.gguf", "llama", module,
        lambda name: Kind.Q6_K if any(part in name for part in large) else Kind.Q4_K,
    )  # fmt: skip
    loaded = load(tmp_path / "m.gguf")
    for name, parameter in loaded.module.named_parameters():
        assert torch.equal(parameter, expected[name]), name
    matrices = {n: p.numel() for n, p in expected.items() if p.ndim == 2}
    share = sum(s for n, s in matrices.items() if any(part in n for part in large))
    share /= sum(matrices.values())
    report = quantize(loaded, QuantRecipe(name="none")).report
    # 144 bytes for 256 weights are 4.5 bits, 210 are 6.5625.
    assert report.bits_per_weight == pytest.approx(4.5 * (1 - share) + 6.5625 * share, rel=1e-12)
    assert report.formats == {"checkpoint": "Q4_K, Q6_K"}
    assert loaded.origin == "dequantized GGUF (7 x Q4_K, 3 x F32, 2 x Q6_K)"


def test_recipes_apply_to_the_dequantized_weights(
    mixed_llama: tuple[LoadedModel, dict[str, torch.Tensor]],
) -> None:
    loaded, expected = mixed_llama
    name = "model.layers.1.mlp.up_proj"
    fmt = BlockScaled(element=Integer(bits=8), granularity=Granularity(block=(1, -1)))
    recipe = QuantRecipe(name="int8_row", rules={"linear": LayerRule(match="*", weight=fmt)})
    report = quantize(loaded, recipe).report
    weight = loaded.module.get_submodule(name).weight
    assert torch.equal(weight, fake_quantize(expected[f"{name}.weight"], fmt))
    assert report.backend == "fake"
    assert name in {layer.name for layer in report.layers}
    loaded.restore()
    assert quantize(loaded, QuantRecipe(name="none")).report.backend == "gguf"


def test_float_file_is_no_quantized_one(tmp_path: Path) -> None:
    write(tmp_path / "m.gguf", "qwen2", random("qwen2"), lambda _: Kind.F32)
    loaded = load(tmp_path / "m.gguf")
    assert loaded.dequantized is None
    assert loaded.origin.startswith("float GGUF (")
    assert quantize(loaded, QuantRecipe(name="none")).report.bits_per_weight == 32.0


def test_width_of_heads_that_transformers_assumes_otherwise_is_refused(tmp_path: Path) -> None:
    """The table of transformers has no width of heads for Qwen3."""
    config = Qwen3Config(**SIZES, head_dim=16)
    module = Qwen3ForCausalLM(config).requires_grad_(False)
    write(tmp_path / "m.gguf", "qwen3", module, lambda _: Kind.F32)
    with pytest.raises(ModelError, match=r"self_attn\.k_norm\.weight \[16\] instead of \[128\]"):
        load(tmp_path / "m.gguf")


def test_factors_of_positions_are_carried_over(tmp_path: Path) -> None:
    """Files of Llama 3.1 and later have them; transformers forgets them."""
    factors = np.array([1, 1.5, 4, 8], np.float32)
    module = random("llama")
    expected = write(
        tmp_path / "m.gguf", "llama", module, lambda _: Kind.F32,
        extra={"rope_freqs.weight": factors},
    )  # fmt: skip
    loaded = load(tmp_path / "m.gguf")
    turns = loaded.module.model.rotary_emb.inv_freq
    base = 5e4 ** -(torch.arange(0, HEAD_DIM, 2) / HEAD_DIM)
    torch.testing.assert_close(turns, base / torch.from_numpy(factors), rtol=1e-6, atol=0)
    module.load_state_dict(expected, strict=False)
    module.model.rotary_emb.inv_freq.copy_(turns)
    torch.testing.assert_close(logits(loaded.module), logits(module), rtol=0, atol=2e-4)


@pytest.mark.parametrize(
    ("architecture", "settings", "extra", "said"),
    [
        ("llama", {}, {"blk.0.attn_q.bias": (32,)}, r"without a place: blk\.0\.attn_q\.bias"),
        ("llama", {}, {"blk.2.ffn_up.weight": (64, 32)}, r"without a place: blk\.2\.ffn_up"),
        ("qwen2", {}, {"rope_factors_long.weight": (4,)}, "without a place: rope_factors_long"),
        ("gemma3", {}, {"rope_freqs.weight": (4,)}, "it has rope_freqs"),
        ("llama", {"rope.scaling.type": "linear"}, {}, r"llama\.rope\.scaling\.type is linear"),
        ("gemma3", {"rope.scaling.factor": 8.0}, {}, r"rope\.scaling\.factor is 8\.0, .* has 1\.0"),
        ("qwen2", {"attention.scale": 0.5}, {}, r"qwen2\.attention\.scale is 0\.5"),
        ("llama", {"final_logit_softcapping": 30.0}, {}, "final_logit_softcapping is 30"),
        ("qwen2", {"rope.dimension_count": 4.0}, {}, "positions turn by 4"),
    ],
)
def test_what_transformers_forgets_is_refused(
    tmp_path: Path, architecture: str, settings: Changes, extra: Changes, said: str,
) -> None:  # fmt: skip
    tensors = {name: np.ones(shape, np.float32) for name, shape in extra.items()}
    write(
        tmp_path / "m.gguf", architecture, random(architecture), lambda _: Kind.F32,
        settings=settings, extra=tensors,
    )  # fmt: skip
    with pytest.raises(ModelError, match=said):
        load(tmp_path / "m.gguf")
    assert not list((tmp_path / "cache").glob("*/config.json"))
