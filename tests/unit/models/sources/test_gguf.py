"""GGUF files: where the converted copy lies, and that a broken copy never passes for a model."""

import errno
import hashlib
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from tokenizers.pre_tokenizers import ByteLevel

from harness.errors import ModelError, OutputError
from harness.models.checkpoints.folder import sha256_file
from harness.models.loaded import LoadedModel
from harness.models.sources import gguf as gguf_models
from harness.models.sources import gguf_copy
from harness.models.sources.cache_folder import BFLOAT16_COPY, EXACT_COPY
from harness.models.sources.gguf import GgufModel, fingerprint_of, load_gguf
from harness.models.sources.gguf_copy import converted_folder, file_facts, origin_of
from harness.models.sources.tiny import TinyModel

CPU = torch.device("cpu")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("HARNESS_CACHE", str(folder))
    return folder


def test_file_is_converted_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Path] = []

    def convert(file: Path, target: Path, conversion: str) -> None:
        calls.append(file)
        (target / "config.json").write_text("{}", encoding="utf-8")

    monkeypatch.setattr(gguf_copy, "_convert", convert)
    first = converted_folder(Path("m.gguf"), "a" * 64)
    assert (first / "config.json").is_file()
    assert converted_folder(Path("m.gguf"), "a" * 64) == first
    assert len(calls) == 1
    assert converted_folder(Path("m.gguf"), "b" * 64) != first
    assert len(calls) == 2
    assert not list(cache.glob("converting-*"))


def test_conversion_that_fails_leaves_nothing_and_is_repeated(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(file: Path, target: Path, conversion: str) -> None:
        (target / "config.json").write_text("half", encoding="utf-8")
        raise KeyboardInterrupt

    monkeypatch.setattr(gguf_copy, "_convert", fail)
    with pytest.raises(KeyboardInterrupt):
        converted_folder(Path("m.gguf"), "a" * 64)
    assert [path for path in cache.iterdir() if path.is_dir()] == []
    monkeypatch.setattr(gguf_copy, "_convert", lambda file, target, conversion: None)
    assert converted_folder(Path("m.gguf"), "a" * 64).is_dir()


def write_gguf(file: Path) -> None:
    """Write a file with two float32 tensors and one of 8-bit blocks, and no model in it."""
    writer = gguf.GGUFWriter(file, "llama")
    blocks = gguf.quants.quantize(np.ones((2, 32), np.float32), gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("a", np.ones((2, 3), np.float32))
    writer.add_tensor("b", np.ones(4, np.float32))
    writer.add_tensor("c", blocks, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_origin_lists_the_types_of_the_tensors(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf")
    assert origin_of(tmp_path / "m.gguf") == "dequantized GGUF (2 x F32, 1 x Q8_0)"


def write_floats(file: Path) -> None:
    """Write a file with tensors of float types alone."""
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_tensor("a", np.ones((2, 3), np.float32))
    writer.add_tensor("b", np.ones((2, 3), np.float16))
    bf16 = gguf.quants.quantize(np.ones((2, 32), np.float32), gguf.GGMLQuantizationType.BF16)
    writer.add_tensor("c", bf16, raw_dtype=gguf.GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize(("write", "expected"), [(write_gguf, True), (write_floats, False)])
def test_file_with_blocks_came_quantized_and_one_of_floats_did_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], None], expected: bool
) -> None:
    file = tmp_path / "m.gguf"
    write(file)

    def load_other_weights(*_: object, **__: object) -> LoadedModel:
        tiny = TinyModel().load(CPU)
        tiny.dequantized = file_facts(file, tiny)
        return tiny

    monkeypatch.setattr(gguf_models, "load_gguf", load_other_weights)
    base = TinyModel(seed=1)
    loaded = GgufModel(path=str(file), baseline=base).load(CPU)
    assert loaded.came_quantized is expected
    assert loaded.baseline == base


def test_fingerprint_is_the_hash_of_the_file_and_the_version_of_the_conversion(
    tmp_path: Path,
) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(b"content")
    sha256 = hashlib.sha256(b"content").hexdigest()
    assert GgufModel(path=str(file)).fingerprint() == f"{sha256}-v2"
    assert fingerprint_of(sha256, BFLOAT16_COPY) == sha256


def test_missing_file_is_named(tmp_path: Path) -> None:
    for call in (GgufModel.fingerprint, lambda model: model.load(CPU)):
        with pytest.raises(ModelError, match=r"model\.path must be a GGUF file, got '.*nowhere'"):
            call(GgufModel(path=str(tmp_path / "nowhere")))


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("content", [b"", b"not a GGUF file", b"GGUF" + bytes(100)])
def test_file_that_is_no_gguf_is_a_model_error(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(content)
    with pytest.raises(ModelError, match="GGUF file"):
        GgufModel(path=str(file)).load(CPU)


LAYER = {
    "attn_norm": (16,),
    "ffn_norm": (16,),
    "attn_q": (16, 16),
    "attn_k": (8, 16),
    "attn_v": (8, 16),
    "attn_output": (16, 16),
    "ffn_gate": (24, 16),
    "ffn_up": (24, 16),
    "ffn_down": (16, 24),
}
ALPHABET = sorted(ByteLevel.alphabet())
WHOLE = {
    "token_embd.weight": (258, 16),
    "output_norm.weight": (16,),
    "output.weight": (258, 16),
    **{f"blk.0.{name}.weight": shape for name, shape in LAYER.items()},
}


def write_model(file: Path, without: str | None = None) -> dict[str, np.ndarray]:
    """Write a Llama of one layer with a byte tokenizer, maybe without a tensor; return tensors."""
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(16)
    writer.add_feed_forward_length(24)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(258)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([*ALPHABET, "ab", "<end>"])
    writer.add_token_types([gguf.TokenType.NORMAL] * 257 + [gguf.TokenType.CONTROL])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(257)
    writer.add_eos_token_id(257)
    rng = np.random.default_rng(0)
    tensors = {name: rng.normal(size=shape).astype(np.float32) for name, shape in WHOLE.items()}
    tensors.pop(without, None)
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tensors


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("conversion", [EXACT_COPY, BFLOAT16_COPY])
def test_model_has_the_weights_of_the_file(tmp_path: Path, conversion: str) -> None:
    file = tmp_path / "m.gguf"
    written = write_model(file)
    loaded = load_gguf(file, name="m", dtype="float32", device=CPU, conversion=conversion)
    layer = loaded.module.model.layers[0]
    found = {
        "token_embd.weight": loaded.module.model.embed_tokens.weight,
        "output.weight": loaded.module.lm_head.weight,
        "blk.0.attn_v.weight": layer.self_attn.v_proj.weight,
        "blk.0.ffn_down.weight": layer.mlp.down_proj.weight,
        "blk.0.ffn_norm.weight": layer.post_attention_layernorm.weight,
    }
    for name, weight in found.items():
        exact = torch.from_numpy(written[name])
        assert weight.dtype is torch.float32
        assert torch.equal(
            weight, exact if conversion == EXACT_COPY else exact.bfloat16().float()
        ), name
    rounded = ", rounded to bfloat16" if conversion == BFLOAT16_COPY else ""
    assert loaded.origin == f"float GGUF (12 x F32){rounded}"
    assert loaded.fingerprint == fingerprint_of(sha256_file(file), conversion)
    assert loaded.tokenizer("abé")["input_ids"] == [256, *map(ALPHABET.index, "Ã©")]


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("name", ["blk.0.ffn_up.weight", "token_embd.weight"])
def test_missing_tensor_is_a_model_error_and_never_a_random_weight(
    tmp_path: Path, name: str
) -> None:
    write_model(tmp_path / "m.gguf", without=name)
    with pytest.raises(ModelError):
        GgufModel(path=str(tmp_path / "m.gguf")).load(CPU)


def damaged_after(content: bytes, key: str, skipped: int, number: bytes) -> bytes:
    """Return a file with another number so many bytes behind a key."""
    place = content.index(key.encode()) + len(key) + skipped
    return content[:place] + number + content[place + len(number) :]


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize(
    ("key", "skipped", "number", "said"),
    [
        # Behind a key stand its type and its value: of an array, the type of its elements and their
        # number.
        ("llama.block_count", 4, (2**31).to_bytes(4, "little"), "the file has 12 tensors"),
        ("llama.vocab_size", 4, (2**31).to_bytes(4, "little"), "a model of 68,7"),
        ("llama.feed_forward_length", 4, (2**31).to_bytes(4, "little"), "it holds 10,224"),
        ("tokenizer.ggml.token_type", 8, (10**18).to_bytes(8, "little"), "bytes or more, and has"),
        ("tokenizer.ggml.tokens", 8, (10**18).to_bytes(8, "little"), "bytes or more, and has"),
        ("GGUF", 4, (10**18).to_bytes(8, "little"), "bytes or more, and has"),  # tensors
        ("GGUF", 12, (10**18).to_bytes(8, "little"), "bytes or more, and has"),  # keys
    ],
)
def test_a_size_that_the_file_cannot_fill_is_refused_before_it_is_made(
    tmp_path: Path, key: str, skipped: int, number: bytes, said: str
) -> None:
    file = tmp_path / "m.gguf"
    write_model(file)
    file.write_bytes(damaged_after(file.read_bytes(), key, skipped, number))
    with pytest.raises(ModelError, match="GGUF file that transformers can dequantize") as caught:
        GgufModel(path=str(file)).load(CPU)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_copy_is_read_where_nothing_can_be_written(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf_copy, "_convert", lambda file, target, conversion: None)
    first = converted_folder(Path("m.gguf"), "a" * 64)
    monkeypatch.setattr(gguf_copy, "locked", None)
    assert converted_folder(Path("m.gguf"), "a" * 64) == first


def test_a_cache_that_cannot_be_written_is_named(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.write_text("a file")
    with pytest.raises(
        OutputError, match=r"^HARNESS_CACHE must be a folder that can .* name another"
    ):
        converted_folder(Path("m.gguf"), "a" * 64)
    cache.unlink()

    def convert(file: Path, target: Path, conversion: str) -> None:
        (target / "half").write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(gguf_copy, "_convert", convert)
    with pytest.raises(
        OutputError, match=r"No space left on device; free some space, or name another"
    ):
        converted_folder(Path("m.gguf"), "a" * 64)
    assert [path for path in cache.iterdir() if path.is_dir()] == []
