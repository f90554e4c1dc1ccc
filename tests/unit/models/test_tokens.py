"""Text becomes token ids in one place: suffixes, limits and missing rows change no number.

Every model is compared with the same weights under the plain tokenizer, which does none of it.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.processors import ByteLevel, Sequence, TemplateProcessing
from transformers import PreTrainedTokenizerFast

from harness.calibration.calibration_set import CalibrationSet
from harness.data.embedded import EmbeddedData
from harness.data.source import Text
from harness.engines.local.engine import LocalEngine
from harness.errors import DataError
from harness.models import tokens
from harness.models.loaded import LoadedModel
from harness.models.sources.config_only import load_weightless
from harness.models.sources.pretrained import LocalModel
from harness.models.sources.tiny import byte_tokenizer
from harness.models.tokens import num_rows, special_tokens, tokenizer_of
from harness.tasks.mmlu.direct import Direct
from harness.tasks.mmlu.generate import Generate
from harness.tasks.mmlu.mmlu import MMLU
from harness.tasks.mmlu.prompt import answer_ids
from harness.tasks.perplexity.documents import Documents
from harness.tasks.perplexity.llama_cpp import HalfWindows
from harness.tasks.perplexity.perplexity import Perplexity
from harness.tasks.windows import disjoint_windows

TEXT = "Sequences end; texts go on."
EMBEDDED = EmbeddedData()


def around(single: str, first: str | None = None) -> PreTrainedTokenizerFast:
    """Return the byte tokenizer with special tokens around a text; `first` is its BOS."""
    tokenizer = byte_tokenizer()
    if first is not None:
        tokenizer.add_special_tokens({"bos_token": first})
    names = {name for name in single.split() if name != "$A"}
    ids = [(name, tokenizer.convert_tokens_to_ids(name)) for name in sorted(names)]
    template = TemplateProcessing(single=single, special_tokens=ids)
    # As Llama 3 has it: offsets are mended before the special tokens come.
    tokenizer.backend_tokenizer.post_processor = Sequence([ByteLevel(trim_offsets=False), template])
    return tokenizer


def reading(tiny: LoadedModel, tokenizer: PreTrainedTokenizerFast) -> LoadedModel:
    """Return the tiny model under another tokenizer."""
    return replace(tiny, tokenizer=tokenizer, kept={})


def saved(tiny: LoadedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> LoadedModel:
    """Return the tiny model under another tokenizer, out of a folder."""
    tiny.module.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return LocalModel(path=str(folder), name="tiny", dtype="float32").load(tiny.device)


def text(content: str) -> Text:
    return Text(name="fixed", text=content, sha256=content, num_rows=1, documents=(content,))


@pytest.mark.parametrize(
    ("single", "prefix", "suffix"),
    [
        ("$A", 0, 0),
        ("$A <eos>", 0, 1),
        ("$A <eos> <eos> !", 0, 3),
        ("! $A", 1, 0),
        ("! # $A <eos> !", 2, 2),
    ],
)
def test_specials_in_front_stay_and_those_behind_go(
    tiny: LoadedModel, single: str, prefix: int, suffix: int
) -> None:
    loaded = reading(tiny, around(single))
    plain = byte_tokenizer()(TEXT, return_offsets_mapping=True)
    whole = loaded.tokenizer(TEXT)["input_ids"]
    found = tokenizer_of(loaded).encode(TEXT)
    assert [len(part) for part in special_tokens(loaded.tokenizer)] == [prefix, suffix]
    assert found.ids == whole[: len(whole) - suffix]
    assert found.ids[prefix:] == plain["input_ids"]
    assert found.ends == [0] * prefix + [end for _, end in plain["offset_mapping"]]
    assert tokenizer_of(loaded).encode(TEXT, prefix=False).ids == plain["input_ids"]


def test_tokenizer_without_the_usual_characters_is_refused_only_if_it_matters(
    tiny: LoadedModel,
) -> None:
    """Without tokens between them, special tokens in front and behind cannot be told apart."""
    few = Tokenizer(BPE(vocab={"x": 0, "<eos>": 1}, merges=[]))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=few)
    assert special_tokens(tokenizer) == ((), ())
    few.post_processor = TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=few)
    with pytest.raises(DataError, match=r"one of the characters 'aA0', got only .* \[1\]"):
        tokenizer_of(reading(tiny, tokenizer)).encode("xx")


def test_special_tokens_that_a_text_spells_are_part_of_it(tiny: LoadedModel) -> None:
    loaded = reading(tiny, around("<eos> $A <eos>"))
    assert tokenizer_of(loaded).encode("a<eos>").ids == [260, 64, 260]


@pytest.mark.parametrize(
    ("single", "first", "yes"),
    [("! $A <eos>", "!", True), ("! $A", "#", False), ("$A !", "!", False), ("! $A", None, False)],
)
def test_bos_is_added_if_the_first_special_token_is_it(
    tiny: LoadedModel, single: str, first: str | None, yes: bool
) -> None:
    assert tokenizer_of(reading(tiny, around(single, first))).adds_bos is yes


@pytest.mark.parametrize("window", [8, 9, 14, 28])
def test_appended_eos_is_in_no_window(tiny: LoadedModel, window: int) -> None:
    # TEXT has 27 tokens; with an EOS the last of 28 would fill a window.
    tokenizer, content = around("$A <eos>"), text(TEXT)
    if window == 28:
        with pytest.raises(DataError, match="got 27 tokens, that is 0 windows"):
            disjoint_windows(content, LocalEngine(reading(tiny, tokenizer)), window, None)
        return
    found = disjoint_windows(content, LocalEngine(reading(tiny, tokenizer)), window, None)
    plain = disjoint_windows(content, LocalEngine(reading(tiny, byte_tokenizer())), window, None)
    assert (found.ids == plain.ids).all()
    assert (found.scored_documents == plain.scored_documents).all()
    assert found[2:] == plain[2:]


TASKS: dict[str, Callable[[], Perplexity | MMLU]] = {
    "perplexity": lambda: Perplexity(data=EMBEDDED, window=48, limit_windows=2),
    "documents": lambda: Perplexity(
        data=EMBEDDED, segmentation=Documents(), window=48, limit_documents=4
    ),
    "llama_cpp": lambda: Perplexity(
        data=EMBEDDED, segmentation=HalfWindows(), window=48, limit_windows=2
    ),
    "direct": lambda: MMLU(data=EMBEDDED, answer=Direct(), limit=2, shots=1),
    "generate": lambda: MMLU(data=EMBEDDED, answer=Generate(), limit=2, shots=1),
}


@pytest.fixture(scope="module")
def saved_models(
    _tiny: LoadedModel, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, LoadedModel]:
    """The tiny model with three tokenizers that do more than the plain one, loaded from folders."""
    limited, larger = byte_tokenizer(), byte_tokenizer()
    limited.backend_tokenizer.enable_truncation(16)
    limited.backend_tokenizer.enable_padding(length=64, pad_id=0, pad_token="!")  # noqa: S106 - no secret
    larger.add_tokens(["<no_row>", "no such text"])
    assert len(larger) > num_rows(_tiny)
    tokenizers = {"appended": around("$A <eos> <eos>"), "limited": limited, "larger": larger}
    return {
        kind: saved(_tiny, tokenizer, tmp_path_factory.mktemp(kind))
        for kind, tokenizer in tokenizers.items()
    }


@pytest.mark.parametrize("name", TASKS)
def test_what_a_tokenizer_has_beside_the_text_moves_no_number(
    tiny: LoadedModel, saved_models: dict[str, LoadedModel], name: str
) -> None:
    task = TASKS[name]()
    expected = task.run(LocalEngine(reading(tiny, byte_tokenizer())))
    for kind, loaded in saved_models.items():
        found = task.run(LocalEngine(loaded))
        assert found.samples == expected.samples, kind
        assert found.metrics == expected.metrics, kind
        assert found.info.protocol == expected.info.protocol, kind
        assert found.info.data == expected.info.data, kind


def test_token_without_a_row_is_named(tiny: LoadedModel) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["<no_row>", "the"])
    for task in TASKS.values():
        with pytest.raises(
            DataError, match=r"got 'the' with id 262 where there are 261 rows"
        ) as found:
            task().run(LocalEngine(reading(tiny, tokenizer)))
        assert "embedding of tiny" in str(found.value)


def test_token_without_a_row_in_the_head_is_named(tiny: LoadedModel) -> None:
    head = torch.nn.Linear(48, 100, bias=False)
    module = type(tiny.module)(tiny.module.config)
    module.lm_head = head
    short = replace(tiny, module=module, kept={})
    assert num_rows(short) == 100
    with pytest.raises(DataError, match="with id 260 where there are 100 rows"):
        tokenizer_of(short).encode("<eos>")


def test_calibration_reads_the_text_as_tasks_do(tiny: LoadedModel) -> None:
    chosen = CalibrationSet(data=EMBEDDED, num_sequences=4, length=32)
    found = chosen.draw(reading(tiny, around("$A <eos>"))).ids
    assert found.equal(chosen.draw(tiny).ids)
    larger = byte_tokenizer()
    larger.add_tokens(["the"])
    with pytest.raises(DataError, match="got 'the' with id 261"):
        chosen.draw(reading(tiny, larger))


def test_pairs_share_their_context_and_move_its_white_space_to_the_continuation(
    tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = tokenizer_of(reading(tiny, around("<bos> $A <eos>", "<bos>")))
    texts = [("Why? ", "5"), ("Why? ", "50"), ("How?", " far")]
    found = tokenizer.encode_pairs(texts)
    [start] = tokenizer.specials.prefix
    assert all(context[0] == start for context, _ in found)
    assert found[0][0] is found[1][0]
    assert [tuple(map(tokenizer.decode, (context[1:], own))) for context, own in found] == [
        ("Why?", " 5"),
        ("Why?", " 50"),
        ("How?", " far"),
    ]
    monkeypatch.setattr(tokens, "TEXTS_AT_ONCE", 2)
    assert tokenizer.encode_pairs(texts) == found


def test_answers_follow_the_prompt_and_not_an_eos(tiny: LoadedModel) -> None:
    appended = reading(tiny, around("$A <eos>"))
    assert answer_ids(LocalEngine(appended), "Answer:") == answer_ids(LocalEngine(tiny), "Answer:")


def test_folder_loads_without_the_limits_of_its_tokenizer(
    tiny: LoadedModel, tmp_path: Path
) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.backend_tokenizer.enable_truncation(4)
    tokenizer.backend_tokenizer.enable_padding(length=50)
    loaded = saved(tiny, tokenizer, tmp_path)
    for each in (loaded, load_weightless(tmp_path, dtype="float32")):
        assert len(each.tokenizer.backend_tokenizer.encode(TEXT).ids) == len(TEXT)


def test_prompts_are_encoded_together_as_alone() -> None:
    found = tokenizer_for(around("! # $A <eos> !"))
    texts = ["a", TEXT, "", "<eos>!"]
    assert found.encode_bare(texts) == [tuple(byte_tokenizer()(t)["input_ids"]) for t in texts]
    # The text of the EOS, where there is no BOS, stands for the special tokens in front.
    expected = [tuple(found.encode(text).ids) for text in texts[:3]] + [found.encode_bare(texts)[3]]
    assert found.encode_prompts(texts) == expected


def test_prompt_that_begins_with_the_text_of_its_bos_gets_no_second_one() -> None:
    found = tokenizer_for(around("! $A", first="!"))
    assert found.encode_prompts(["!a", "a", "<eos>"]) == [(0, 64), (0, 64), (0, 260)]


def test_special_tokens_are_left_out_of_a_text_on_demand() -> None:
    found = tokenizer_for(byte_tokenizer())
    assert found.decode([64, 260, 64]) == "a<eos>a"
    assert found.decode([64, 260, 64], skip_special=True) == "aa"


def tokenizer_for(backend: PreTrainedTokenizerFast) -> tokens.Tokenizer:
    return tokens.Tokenizer(backend=backend, model="tiny", num_rows=261)
