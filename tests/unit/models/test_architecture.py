"""The class of a folder, its attention, its text model, and its maximum length."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import ARCHITECTURES, IMAGES, build, save
from transformers import T5Config, T5ForConditionalGeneration

from harness.calibration.calibration_set import CalibrationSet
from harness.data.embedded import EmbeddedData
from harness.data.source import Text
from harness.engines.local.split_model import split
from harness.errors import DataError, ModelError
from harness.models import architecture
from harness.models.architecture import text_config, text_model
from harness.models.loaded import LoadedModel
from harness.models.sources.config_only import load_weightless
from harness.models.sources.pretrained import LocalModel
from harness.models.sources.tiny import byte_tokenizer
from harness.tasks.lm_eval.lm_eval import LMEval
from harness.tasks.windows import check_length

CPU = torch.device("cpu")


@dataclass(frozen=True)
class ShortText(EmbeddedData):
    """A text of little more than 2000 tokens, which is tokenized in no time."""

    def text(self, split: str = "test") -> Text:
        return Text(name="short", text="word " * 500, sha256=split, num_rows=1, documents=("",))


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("architectures")


@pytest.fixture
def folder(models: Path, name: str) -> Path:
    path = models / name
    if not path.exists():
        save(name, path)
    return path


def load(folder: Path, **options: Any) -> LoadedModel:
    return LocalModel(path=str(folder), dtype="float32", **options).load(CPU)


def change_config(folder: Path, **changes: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    ("name", "kernel"),
    [
        ("llama", "sdpa"),
        ("gemma2", "eager"),  # soft caps
        ("gpt_oss", "eager"),  # sinks
        ("bloom", "eager"),  # ALiBi
        ("falcon_alibi", "sdpa"),
        ("mamba", "eager"),  # none at all
        ("gemma4", "sdpa"),  # the vision tower has none
        ("qwen2_vl", "sdpa"),
    ],
)
def test_attention_is_sdpa_where_the_architecture_has_it(
    folder: Path, name: str, kernel: str
) -> None:
    assert load(folder).attention == kernel


@pytest.mark.parametrize("name", ["llama"])
def test_attention_that_the_writer_ran_with_does_not_count(
    models: Path, tmp_path: Path, folder: Path
) -> None:
    copy = tmp_path / "copy"
    save("llama", copy)
    change_config(copy, _attn_implementation="flash_attention_2", attn_implementation="eager")
    assert load(copy).attention == "sdpa"


@pytest.mark.parametrize("name", ["llama", "qwen2_vl"])
def test_attention_is_the_one_that_was_chosen(folder: Path, name: str) -> None:
    loaded = load(folder, attention="eager")
    assert loaded.attention == "eager"
    assert text_config(loaded.module)._attn_implementation == "eager"
    own = load(folder)
    ids = torch.arange(1, 30)[None]
    with torch.inference_mode():
        exact, usual = loaded.module(ids).logits, own.module(ids).logits
    # The same sums in another order: 30 keys, float32.
    torch.testing.assert_close(exact, usual, rtol=1e-4, atol=1e-4)
    assert not torch.equal(exact, usual)


@pytest.mark.parametrize(
    ("name", "chosen", "reason"),
    [
        ("gemma2", "sdpa", "does not support an attention implementation"),
        ("llama", "flex", "model.attention must be .* got flex: .*is not supported"),
        (
            "llama",
            "flex_attention",
            "got flex_attention: it is compiled.*; leave model.attention out",
        ),
        ("llama", "paged|eager", "got paged.eager: .*without a paged attention cache"),
        ("falcon_alibi", "eager", r"hidden states differ by .* from those with sdpa"),
    ],
)
def test_attention_that_is_not_the_models_is_refused(
    folder: Path, name: str, chosen: str, reason: str
) -> None:
    with pytest.raises(ModelError, match=reason):
        load(folder, attention=chosen)


def test_attention_that_a_class_takes_no_notice_of_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = build("llama")
    monkeypatch.setattr(architecture, "attention_of", lambda _: "eager")
    with pytest.raises(ModelError, match=r"got sdpa, but it runs with eager"):
        architecture.check_attention(module, "sdpa")


@pytest.mark.parametrize("name", ["gemma3"])
def test_attention_changes_for_the_text_model_alone_and_comes_back(folder: Path, name: str) -> None:
    module = load(folder).module
    with architecture.attention(module, "eager"):
        assert text_model(module).config._attn_implementation == "eager"
        assert module.config.vision_config._attn_implementation == "sdpa"
    assert architecture.attention_of(module) == "sdpa"


WRAPPERS = [name for name, made in ARCHITECTURES.items() if "text_config" in made.options]


@pytest.mark.parametrize("name", WRAPPERS)
def test_wrapper_loads_whole_and_its_text_model_is_scored(folder: Path, name: str) -> None:
    loaded = load(folder)
    written = build(name)
    assert type(loaded.module) is type(written)
    assert loaded.module.state_dict().keys() == written.state_dict().keys()
    assert text_config(loaded.module).model_type != loaded.module.config.model_type
    ids = torch.arange(1, 40)[None]
    with split(loaded) as halves:
        found = halves.logits(halves.hidden(ids))
        expected = written(ids, use_cache=False).logits
    # Two passes over the same float32 weights; sums over 64 numbers may run in another order.
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert expected.shape[-1] == IMAGES + 8


@pytest.mark.parametrize(
    ("name", "longest"),
    [
        ("llama", 512),
        ("gpt2", 1024),
        ("mpt", 512),
        ("bloom", None),
        ("mamba", None),
        ("qwen2_vl", 512),
    ],
)
def test_longest_sequence_is_what_the_configuration_says(
    folder: Path, name: str, longest: int | None
) -> None:
    loaded = load(folder)
    assert loaded.max_length == longest
    assert load_weightless(folder, dtype="float32").max_length == longest
    assert loaded.fits(512)
    assert loaded.fits(100_000) is (longest is None)
    calibration = CalibrationSet(data=ShortText(), num_sequences=1, length=2000)
    if longest is None:
        check_length(100_000, loaded)
        assert calibration.draw(loaded).ids.shape == (1, 2000)
    else:
        with pytest.raises(DataError, match=f"at most the {longest} tokens"):
            check_length(longest + 1, loaded)
        with pytest.raises(DataError, match=f"the {longest} that"):
            calibration.draw(loaded)
    # lm-eval needs a number: its own default where the model has none.
    assert LMEval(tasks=("any",))._length(loaded) == (longest or 2048)


def test_negative_length_is_none() -> None:
    module = build("llama")
    module.config.max_position_embeddings = -1
    assert architecture.max_length(module) is None


def test_model_that_is_not_causal_is_refused_by_name(tmp_path: Path) -> None:
    sizes = {
        "vocab_size": 261,
        "d_model": 16,
        "d_kv": 8,
        "d_ff": 24,
        "num_layers": 1,
        "num_heads": 2,
    }
    T5ForConditionalGeneration(T5Config(**sizes)).save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"must be a causal language model.*got model_type 't5'"):
        load(tmp_path)
