"""Variants of one model: other types, kernels and batches, and the model left as it was."""

import copy
from contextlib import nullcontext

import numpy as np
import pytest
import torch

from harness.data.embedded import EmbeddedData
from harness.engines.local.engine import LocalEngine
from harness.engines.local.split_model import split
from harness.engines.local.variants import in_other_dtype
from harness.engines.requests import Score
from harness.models.architecture import attention
from harness.models.loaded import LoadedModel
from harness.models.sources.tiny import TinyModel

VOCAB = 261


@pytest.fixture(params=["float32", "bfloat16"], scope="module")
def loaded(request: pytest.FixtureRequest) -> LoadedModel:
    return TinyModel(dtype=request.param).load(torch.device("cpu"))


def windows(loaded: LoadedModel, count: int) -> torch.Tensor:
    begin = EmbeddedData().text().text[: 200 * count]  # the whole text has far more tokens
    return torch.tensor(loaded.tokenizer(begin)["input_ids"][: 100 * count]).view(count, 100)


@pytest.mark.parametrize("lengths", [(100,), (100, 100), (100, 60, 80), (100, 100, 100, 7)])
def test_requests_in_pairs_come_out_in_order(loaded: LoadedModel, lengths: tuple[int, ...]) -> None:
    ids = windows(loaded, len(lengths)).tolist()
    requests = [
        Score(tuple(row[:2]), tuple(row[2:length]))
        for row, length in zip(ids, lengths, strict=True)
    ]
    alone = LocalEngine(loaded)
    pairs = alone.of(loaded, compared_at_once=2)
    found = list(pairs.compare(alone, requests))
    assert [index for index, _ in found] == list(range(len(lengths)))
    # Float rounding only; the probabilities of other windows are several nat away.
    tolerance = 1e-4 if loaded.dtype is torch.float32 else 0.2
    for (_, each), length in zip(found, lengths, strict=True):
        assert {len(column) for column in each} == {length - 2}
        assert each.nll == pytest.approx(each.nll_baseline, abs=tolerance)
        assert np.ptp(each.nll) > 2


def test_only_answers_of_the_model_as_loaded_are_kept(tiny: LoadedModel) -> None:
    engine = LocalEngine(tiny)
    names = {variant.name: variant.engine.engine for variant in engine.variants()}
    assert not any(each.is_as_loaded for each in names.values())
    assert engine.is_as_loaded
    tiny.swap_parameter(tiny.module.lm_head, "weight", torch.zeros(VOCAB, 48))
    assert not engine.is_as_loaded
    assert engine.of(tiny, within=tiny.unquantized).is_as_loaded
    assert not engine.of(tiny, within=nullcontext).is_as_loaded


def test_other_kernel_is_that_of_a_model_made_with_it(loaded: LoadedModel) -> None:
    other = copy.deepcopy(loaded.module)
    other.set_attn_implementation("eager")
    ids = windows(loaded, count=1)
    with torch.no_grad():
        expected = other.model(ids).last_hidden_state
        usual = loaded.module.model(ids).last_hidden_state
    with split(loaded) as model, attention(loaded.module, "eager"):
        found = model.hidden(ids)
    assert torch.equal(found, expected)
    assert not torch.equal(found, usual)


def test_parameters_come_back_after_an_error_and_tied_ones_stay_tied(loaded: LoadedModel) -> None:
    before = dict(loaded.module.named_parameters(remove_duplicate=False))
    become = in_other_dtype(loaded, torch.float64)
    with become():
        assert {parameter.dtype for parameter in loaded.module.parameters()} == {torch.float64}
        assert loaded.module.lm_head.weight is loaded.module.model.embed_tokens.weight
    with pytest.raises(IndexError), become():
        loaded.module.model(torch.tensor([[VOCAB]]))
    after = dict(loaded.module.named_parameters(remove_duplicate=False))
    assert all(after[name] is parameter for name, parameter in before.items())
