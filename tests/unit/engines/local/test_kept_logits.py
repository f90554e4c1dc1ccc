"""Kept logits against plain passes: whole, and token by token."""

import numpy as np
import pytest
import torch
from scipy import special

from harness.engines.local.engine import LocalEngine
from harness.engines.requests import Score
from harness.models.loaded import LoadedModel

REQUESTS = [Score((1, 2, 3), (4, 5, 6, 7)), Score((9,), (8, 10))]


@pytest.mark.parametrize("decode", [0, 1])
def test_kept_logits_are_those_of_a_plain_pass(tiny: LoadedModel, decode: int) -> None:
    found = list(LocalEngine(tiny).kept(REQUESTS, decode))
    assert [index for index, _ in found] == [0, 1]
    for request, (_, kept) in zip(REQUESTS, found, strict=True):
        ids = torch.tensor([[*request.context, *request.continuation]])
        with torch.no_grad():
            logits = tiny.module(ids).logits[0, len(request.context) - 1 : -1]
        assert torch.allclose(kept.logits, logits, rtol=1e-5, atol=1e-5)
        compared = kept.compare(kept)
        assert compared.kl.tolist() == [0.0] * len(request.continuation)
        log_probs = special.log_softmax(logits.double().numpy(), axis=-1)
        places = np.arange(len(request.continuation)), list(request.continuation)
        assert compared.nll == pytest.approx(-log_probs[places], rel=1e-5)


def test_last_tokens_run_one_at_a_time_and_the_last_of_all_is_not_run(tiny: LoadedModel) -> None:
    sizes: list[int] = []
    engine = LocalEngine(tiny)
    list(engine.kept(REQUESTS[:1], 0))  # a model is checked when it is first split
    handle = tiny.module.get_input_embeddings().register_forward_pre_hook(
        lambda _, args: sizes.append(args[0].numel())
    )
    list(engine.kept(REQUESTS[:1], 2))
    handle.remove()
    assert sizes == [4, 1, 1]


def test_both_states_of_a_model_are_kept(tiny: LoadedModel) -> None:
    before = [kept for _, kept in LocalEngine(tiny).kept(REQUESTS, 1)]
    tiny.swap_parameter(tiny.module.lm_head, "weight", torch.zeros(261, 48))
    engine = LocalEngine(tiny)
    recipe = [kept for _, kept in engine.kept(REQUESTS, 1)]
    unquantized = [kept for _, kept in engine.unquantized("parity").engine.kept(REQUESTS, 1)]
    for was, now, changed in zip(before, unquantized, recipe, strict=True):
        assert torch.equal(was.logits, now.logits)
        assert not changed.logits.any()
