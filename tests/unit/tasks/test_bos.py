"""`task.bos`: which windows begin with BOS, against plain loops over its definition."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from builders import fixed_text
from tokenizers.processors import TemplateProcessing

from harness.engines.local.engine import LocalEngine
from harness.errors import DataError
from harness.identity import canonical
from harness.models.loaded import LoadedModel
from harness.models.sources.tiny import byte_tokenizer
from harness.tasks.divergence.divergence import Divergence
from harness.tasks.divergence.noise_floor import NoiseFloor
from harness.tasks.parity.parity import Parity
from harness.tasks.perplexity.documents import Documents
from harness.tasks.perplexity.llama_cpp import HalfWindows
from harness.tasks.perplexity.perplexity import Perplexity
from harness.tasks.windows import disjoint_windows

CONTENT = "Einé Zeile, and a 2nd line of it.\n" * 3
BOS = 7
CHOICES = (None, "first", "every", "none")


DATA = fixed_text(CONTENT)


def model(tiny: LoadedModel, *, has_bos: bool = True, adds: bool = False) -> LoadedModel:
    """Return the tiny model with a tokenizer that may have a BOS token, and add it to a text."""
    tokenizer = byte_tokenizer()
    if has_bos:
        tokenizer.add_special_tokens({"bos_token": tokenizer.convert_ids_to_tokens(BOS)})
    if adds:
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=f"{tokenizer.bos_token} $A", special_tokens=[(tokenizer.bos_token, BOS)]
        )
    return replace(tiny, tokenizer=tokenizer, kept={})


def by_definition(bos: str | None, length: int, *, adds: bool) -> list[list[int]]:
    """Return the windows, cut one at a time."""
    text = byte_tokenizer()(CONTENT)["input_ids"]
    if bos == "every":
        cut = range(0, len(text) - length + 2, length - 1)
        return [[BOS, *text[start : start + length - 1]] for start in cut]
    if bos == "first" or (bos is None and adds):
        text = [BOS, *text]
    return [text[start : start + length] for start in range(0, len(text) - length + 1, length)]


def perplexity(loaded: LoadedModel, windows: list[list[int]]) -> float:
    nll, count = 0.0, 0
    for ids in windows:
        with torch.inference_mode():
            logits = loaded.module(torch.tensor([ids])).logits[0].double()
        for place in range(1, len(ids)):
            nll -= float(logits[place - 1].log_softmax(-1)[ids[place]])
            count += 1
    return math.exp(nll / count)


@pytest.mark.parametrize("adds", [False, True])
@pytest.mark.parametrize("bos", CHOICES)
@pytest.mark.parametrize("length", [2, 9, 17])
def test_windows_and_perplexity_are_those_of_the_definition(
    tiny: LoadedModel, bos: Any, length: int, adds: bool
) -> None:
    loaded, expected = model(tiny, adds=adds), by_definition(bos, length, adds=adds)
    assert (
        disjoint_windows(DATA.text(), LocalEngine(loaded), length, None, bos=bos).ids.tolist()
        == expected
    )
    result = Perplexity(data=DATA, window=length, bos=bos).run(LocalEngine(loaded))
    # A float32 sum beside one in float64.
    assert result.metrics[0].value == pytest.approx(perplexity(tiny, expected), rel=1e-5)
    assert result.metrics[0].n == len(expected) * (length - 1)


@pytest.mark.parametrize("length", [2, 9, 17])
def test_every_token_is_scored_once_with_a_bos_at_every_window(
    tiny: LoadedModel, length: int
) -> None:
    found = disjoint_windows(DATA.text(), LocalEngine(model(tiny)), length, None, bos="every")
    assert (found.ids[:, 0] == BOS).all()
    scored = found.ids[:, 1:].flatten().tolist()
    text = byte_tokenizer()(CONTENT, return_offsets_mapping=True)
    assert scored == text["input_ids"][: len(scored)]
    assert len(text["input_ids"]) - len(scored) < length - 1
    assert found.num_tokens == len(text["input_ids"])
    spelled = CONTENT[: text["offset_mapping"][len(scored) - 1][1]]
    assert found.scored_bytes == len(spelled.encode())


def test_hashes_tell_the_windows_apart(tiny: LoadedModel) -> None:
    loaded = model(tiny)
    hashes = {
        bos: disjoint_windows(DATA.text(), LocalEngine(loaded), 9, 2, bos=bos).ids_sha256
        for bos in ("first", "every", "none")
    }
    assert len(set(hashes.values())) == 3
    own = disjoint_windows(DATA.text(), LocalEngine(loaded), 9, 2).ids_sha256
    assert own == hashes["none"]
    assert (
        disjoint_windows(DATA.text(), LocalEngine(model(tiny, adds=True)), 9, 2).ids_sha256
        == hashes["first"]
    )


@pytest.mark.parametrize(
    ("bos", "adds", "words"),
    [
        (None, False, "stride=L|windows=first-2|bos=none"),
        (None, True, "stride=L|windows=first-2|bos=first-window"),
        ("first", False, "stride=L|windows=first-2|bos=first-window"),
        ("none", True, "stride=L|windows=first-2|bos=none"),
        ("every", True, "stride=L-1|windows=first-2|bos=every-window"),
    ],
)
def test_protocol_says_where_bos_stands(
    tiny: LoadedModel, bos: Any, adds: bool, words: str
) -> None:
    task = Perplexity(data=DATA, window=9, limit_windows=2, bos=bos)
    protocol = task.run(LocalEngine(model(tiny, adds=adds))).info.protocol
    assert protocol == rf"fixed|join=\n\n|L=9|{words}|loss=fp64|acc=fp64"


def test_divergence_and_noise_floor_read_the_same_windows(tiny: LoadedModel) -> None:
    loaded = model(tiny)
    options: dict[str, Any] = {"data": DATA, "window": 9, "limit_windows": 2, "bos": "every"}
    expected = Perplexity(**options).run(LocalEngine(loaded))
    for task in (Divergence(**options), NoiseFloor(**options)):
        found = task.run(LocalEngine(loaded))
        assert "bos=every-window" in found.info.protocol
        assert found.info.data["token_ids_sha256"] == expected.info.data["token_ids_sha256"]
        for item, other in zip(found.samples, expected.samples, strict=True):
            # The sums of another batch are made in another order.
            assert item.token_nll == pytest.approx(other.token_nll, rel=1e-4, abs=1e-4)


def test_parity_reads_the_same_windows(tiny: LoadedModel) -> None:
    task = Parity(data=DATA, window=9, limit_windows=2, decode=1, bos="every")
    prompts = task._prompts(LocalEngine(model(tiny)))
    assert prompts.ids.tolist() == by_definition("every", 9, adds=False)[:2]
    assert "bos=every-window" in prompts.protocol
    with pytest.raises(ValueError, match="bos must be null for random prompts, got first"):
        Parity(data=DATA, prompts="random", bos="first")


@pytest.mark.parametrize("bos", ["first", "every"])
def test_tokenizer_without_bos_is_refused(tiny: LoadedModel, bos: Any) -> None:
    with pytest.raises(DataError, match=r"must have a BOS token for task\.bos=first or every"):
        Perplexity(data=DATA, window=9, bos=bos).run(LocalEngine(model(tiny, has_bos=False)))


def test_bos_without_a_row_is_named(tiny: LoadedModel) -> None:
    loaded = model(tiny, has_bos=False)
    loaded.tokenizer.add_special_tokens({"bos_token": "<bos>"})
    with pytest.raises(DataError, match="got '<bos>' with id 261 where there are 261 rows"):
        Perplexity(data=DATA, window=9, bos="every").run(LocalEngine(loaded))
    assert Perplexity(data=DATA, window=9, bos="none").run(LocalEngine(loaded)).metrics


@pytest.mark.parametrize("cut", [Documents(), HalfWindows()])
def test_protocols_of_other_tools_say_themselves_where_bos_stands(cut: Any) -> None:
    with pytest.raises(ValueError, match=r"bos must be null for perplexity_.*got every"):
        Perplexity(data=DATA, segmentation=cut, window=9, bos="every")


def test_default_leaves_the_identity_of_old_runs() -> None:
    for task in (Perplexity, Divergence, NoiseFloor, Parity):
        early = {"_target_": task.__name__, "window": 9}
        named = early | {"_target_": f"harness.tasks.{task.__name__}"}
        assert canonical(named | {"bos": None}) == early
        assert canonical(named | {"bos": "every"}) == early | {"bos": "every"}
