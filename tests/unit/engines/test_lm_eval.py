"""Answers, tokens and texts are those of lm-eval's own HFLM in float32, a batch of one."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval_model import hflm
from plain_engine import PlainEngine
from tokenizers.processors import TemplateProcessing

from harness.engines.lm_eval import EngineLM
from harness.engines.local.engine import LocalEngine
from harness.engines.requests import Generate
from harness.errors import ConfigError, DataError, UnsupportedEngine
from harness.models.loaded import LoadedModel
from harness.models.sources.tiny import TinyModel

LENGTH = 40
BEGINNING = "Solved: two and two is four.\n\n"
PAIRS = [
    ("Why?", " Because"),
    ("Why? ", "Because"),  # the space goes to the continuation
    ("Why?\n\n", "So"),
    ("", "alone"),
    ("", "<eos>begun"),
    ("<eos>Why?", " End"),
    *((f"{BEGINNING * 5}Which?", f" {choice}") for choice in ("a", "bb", "an apple")),  # cut
    ("one", " two three"),
    ("one two", " three"),  # ends the same tokens
    ("x", "y" * LENGTH),
]
TEXTS = ["", "a", "short", "exactly forty characters, of one token .", "long enough. " * 12]
GREEDY = {"do_sample": False, "max_gen_toks": 12}
PROMPTS = [
    ("Why?", {**GREEDY, "until": ["\n"]}),
    ("<eos>Why? ", {**GREEDY, "until": "e"}),
    (BEGINNING * 3, {"until": [], "max_new_tokens": 9, "temperature": 0.0}),  # cut
    ("Count:", {**GREEDY, "until": ["!!", "<stop>"], "temperature": 1, "num_beams": 1}),
]


def requests(kind: str, arguments: list[tuple[Any, ...]]) -> list[Instance]:
    return [
        Instance(request_type=kind, doc={}, arguments=args, idx=0, metadata=("t", place, 1))
        for place, args in enumerate(arguments)
    ]


@pytest.fixture(scope="module", params=["plain", "bos", "suffix"])
def loaded(request: pytest.FixtureRequest) -> LoadedModel:
    """A tiny model whose tokenizer puts nothing, a BOS, or an EOS around a text."""
    found = TinyModel(seed=3).load(torch.device("cpu"))
    tokenizer = found.tokenizer
    tokenizer.add_special_tokens({"additional_special_tokens": ["<stop>"]})
    if request.param == "bos":
        tokenizer.add_special_tokens({"bos_token": "<bos>"})
    found.module.resize_token_embeddings(len(tokenizer))
    single = {"bos": "<bos> $A", "suffix": "$A <eos>"}.get(request.param)
    if single:
        names = {name for name in single.split() if name != "$A"}
        ids = [(name, tokenizer.convert_tokens_to_ids(name)) for name in names]
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=single, special_tokens=ids
        )
    return found


@pytest.fixture(scope="module")
def reference(loaded: LoadedModel) -> Iterator[HFLM]:
    """HFLM; of the tokenizer without the EOS after a text, which no prompt may have."""
    processor = loaded.tokenizer.backend_tokenizer.post_processor
    if loaded.tokenizer("a")["input_ids"][-1] == loaded.tokenizer.eos_token_id:
        loaded.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A")
    yield hflm(loaded, LENGTH)
    loaded.tokenizer.backend_tokenizer.post_processor = processor


def test_pairs_are_scored_as_by_lm_eval(loaded: LoadedModel, reference: HFLM) -> None:
    client = EngineLM(PlainEngine(loaded), LENGTH)
    found = client.loglikelihood(requests("loglikelihood", PAIRS))
    expected = reference.loglikelihood(requests("loglikelihood", PAIRS), disable_tqdm=True)
    for pair, (value, top), (other, other_top) in zip(PAIRS, found, expected, strict=True):
        assert value == pytest.approx(other, abs=1e-4), pair
        assert top == other_top, pair
    # A BOS before "x" leaves no room for all of the last continuation.
    assert client.num_cut == 3 + client.engine.tokenizer.adds_bos


def test_most_likely_continuations_are_told(loaded: LoadedModel) -> None:
    engine = PlainEngine(loaded)
    with torch.inference_mode():
        token = int(
            loaded.module(torch.tensor([engine.tokenizer.encode_prompts(["a"])[0]]))
            .logits[0, -1]
            .argmax()
        )
    best = engine.tokenizer.decode([token])
    other = "b" if best != "b" else "c"
    pairs = [("a", best), ("a", other)]
    found = EngineLM(engine, LENGTH).loglikelihood(requests("loglikelihood", pairs))
    assert [top for _, top in found] == [True, False]


def test_texts_are_scored_in_the_windows_of_lm_eval(loaded: LoadedModel, reference: HFLM) -> None:
    asked = requests("loglikelihood_rolling", [(text,) for text in TEXTS])
    found = EngineLM(PlainEngine(loaded), LENGTH).loglikelihood_rolling(asked)
    reference.add_bos_token = False  # lm-eval would score a BOS behind the one that is context
    expected = reference.loglikelihood_rolling(asked, disable_tqdm=True)
    reference.add_bos_token = None
    assert found == pytest.approx(expected, abs=1e-4)
    assert found[0] == 0.0


def test_a_call_whose_texts_are_all_empty_asks_nothing(loaded: LoadedModel) -> None:
    texts = requests("loglikelihood_rolling", [("",), ("",)])
    assert EngineLM(LocalEngine(loaded), LENGTH).loglikelihood_rolling(texts) == [0.0, 0.0]


def test_texts_are_generated_and_cut_as_by_lm_eval(loaded: LoadedModel, reference: HFLM) -> None:
    asked = requests("generate_until", PROMPTS)
    engine = PlainEngine(loaded)
    client = EngineLM(engine, LENGTH)
    assert client.generate_until(asked) == reference.generate_until(asked, disable_tqdm=True)
    assert client.num_cut == 1
    request = engine.asked[1]
    assert isinstance(request, Generate)
    assert (request.max_new_tokens, request.stop) == (12, ("e", "<eos>"))


@pytest.mark.parametrize(
    ("written", "stops", "text"),
    [
        ("one<stop>two", ["<stop>"], "one"),  # the text of a special token is left out of answers
        ("one<stop>two", ["two"], "one"),
        ("one<stop>two\n", ["\n"], "onetwo"),
        ("\n\none\ntwo", ["\n"], ""),
        ("one, two; three", [";", ","], "one"),
        ("one", [], "one"),
    ],
)
def test_text_ends_before_the_first_stop(
    loaded: LoadedModel, written: str, stops: list[str], text: str
) -> None:
    engine = PlainEngine(loaded)
    (ids,) = engine.tokenizer.encode_bare([written])
    assert EngineLM(engine, LENGTH)._text(ids, stops) == text


def test_contexts_that_are_equal_are_one_object(loaded: LoadedModel) -> None:
    engine = PlainEngine(loaded)
    pairs = [("Which?", " a"), ("Which?", " b"), ("Which? ", "c")]
    EngineLM(engine, LENGTH).loglikelihood(requests("loglikelihood", pairs))
    assert len({id(request.context) for request in engine.asked}) == 1


@pytest.mark.parametrize(
    "options",
    [
        {"do_sample": True, "temperature": 0.7},
        {"temperature": 0.2},
        {"num_beams": 4},
        {"repetition_penalty": 1.2},
    ],
)
def test_other_than_greedy_decoding_is_unsupported(
    loaded: LoadedModel, options: dict[str, Any]
) -> None:
    name = [*options][-1]
    with pytest.raises(UnsupportedEngine, match=rf"task t must decode greedily, got .*{name}="):
        EngineLM(PlainEngine(loaded), LENGTH).generate_until(
            requests("generate_until", [("Why?", {"until": ["\n"], **options})])
        )


class ScoresOnly(PlainEngine):
    kinds = frozenset({"score"})


def test_engine_that_cannot_generate_is_unsupported(loaded: LoadedModel) -> None:
    with pytest.raises(UnsupportedEngine, match="ones that the engine can generate"):
        EngineLM(ScoresOnly(loaded), LENGTH).generate_until(requests("generate_until", PROMPTS))


@pytest.mark.parametrize("pair", [("Why?", ""), ("Why?", "y" * (LENGTH + 1))])
def test_continuation_without_a_token_or_room_names_its_document(
    loaded: LoadedModel, pair: tuple[str, str]
) -> None:
    asked = requests("loglikelihood", [("a", "b"), pair])
    with pytest.raises(ConfigError, match="document 1 of lm-eval's task t must have"):
        EngineLM(PlainEngine(loaded), LENGTH).loglikelihood(asked)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_gen_toks": LENGTH}, r"1\.\.39 new tokens, got 4 and 40"),
        ({"max_gen_toks": 0}, r"1\.\.39 new tokens, got 4 and 0"),
        ({"max_gen_toks": -5}, r"1\.\.39 new tokens, got 4 and -5"),
        ({"max_gen_toks": 4, "until": ["x", 3]}, r"texts as stops, got \[3\]"),
    ],
)
def test_options_that_nothing_can_be_generated_with_name_the_document(
    options: dict[str, Any], message: str
) -> None:
    loaded = TinyModel().load(torch.device("cpu"))
    asked = requests("generate_until", [("Why?", options)])
    with pytest.raises(ConfigError, match=rf"document 0 .* must have .*{message}"):
        EngineLM(PlainEngine(loaded), LENGTH).generate_until(asked)


def test_rolling_text_needs_a_token_to_begin_with() -> None:
    loaded = TinyModel().load(torch.device("cpu"))
    loaded.tokenizer.eos_token = None
    asked = requests("loglikelihood_rolling", [("a",)])
    with pytest.raises(ConfigError, match="must have a BOS or EOS token"):
        EngineLM(PlainEngine(loaded), LENGTH).loglikelihood_rolling(asked)


def test_token_without_a_row_is_named() -> None:
    loaded = TinyModel().load(torch.device("cpu"))
    loaded.tokenizer.add_tokens(["<no_row>"])
    asked = requests("loglikelihood", [("a", "<no_row>")])
    with pytest.raises(DataError, match="got '<no_row>' with id 261"):
        EngineLM(PlainEngine(loaded), LENGTH).loglikelihood(asked)
