"""Statistics of two distributions against float64 definitions and scipy."""

import math

import numpy as np
import pytest
import torch
from scipy import special
from scipy import stats as scipy_stats

from harness.engines.local import log_softmax
from harness.engines.local.kl_divergence import compare_logits, kl_divergence


def logits(seed: int, rows: int = 50, vocab: int = 300, scale: float = 3.0) -> torch.Tensor:
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed)) * scale


def kl_of(base: torch.Tensor, candidate: torch.Tensor) -> torch.Tensor:
    return kl_divergence(base.log_softmax(-1), candidate.log_softmax(-1))


def entropy(base: torch.Tensor, candidate: torch.Tensor) -> np.ndarray:
    """KL in float64 by scipy."""
    p, q = (special.softmax(x.double().numpy(), axis=-1) for x in (base, candidate))
    return scipy_stats.entropy(p, q, axis=-1)


@pytest.mark.parametrize("scale", [1e-3, 0.1, 1.0, 10.0])
def test_kl_is_that_of_scipy(scale: float) -> None:
    base, candidate = logits(0), logits(0) + logits(1, scale=scale)
    # Log-probabilities near -20 carry float32 errors of 1e-6, and differences may be small.
    assert kl_of(base, candidate).numpy() == pytest.approx(
        entropy(base, candidate), rel=2e-5 + 1e-6 / scale
    )


def test_kl_of_two_outcomes_in_closed_form() -> None:
    p, q = torch.tensor([[0.75, 0.25]]), torch.tensor([[0.5, 0.5]])
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert float(kl_divergence(p.log(), q.log())) == pytest.approx(expected, rel=1e-6)
    assert float(kl_divergence(q.log(), p.log())) == pytest.approx(-math.log(0.75) / 2, rel=1e-6)


def test_kl_is_not_symmetric() -> None:
    base, candidate = logits(0), logits(1)
    there, back = kl_of(base, candidate), kl_of(candidate, base)
    assert back.numpy() == pytest.approx(entropy(candidate, base), rel=2e-5)
    assert (there - back).abs().min() > 1e-3


def test_kl_of_equal_rows_is_exactly_zero() -> None:
    assert kl_of(logits(0), logits(0).clone()).eq(0).all()


def test_tiny_kl_is_accurate_and_not_negative_where_the_plain_sum_is() -> None:
    base = logits(0, rows=20, vocab=50_000)
    candidate = base + logits(1, rows=20, vocab=50_000, scale=1e-5)
    log_p, log_q = base.log_softmax(-1), candidate.log_softmax(-1)
    exact = entropy(base, candidate)
    plain = (log_p.exp() * (log_p - log_q)).sum(-1)
    assert plain.min() < 0
    assert kl_divergence(log_p, log_q).numpy() == pytest.approx(exact, rel=0.1)
    assert exact.max() < 1e-10


def test_kl_is_not_negative_where_expm1_is_an_ulp_low(monkeypatch: pytest.MonkeyPatch) -> None:
    """That of a GPU may be."""
    exact = torch.expm1
    below = torch.tensor(-torch.inf)
    monkeypatch.setattr(torch, "expm1", lambda r: torch.nextafter(exact(r), below))
    candidate = logits(0) + logits(1, scale=1e-6)
    assert kl_of(logits(0), candidate).min() >= 0
    assert kl_of(logits(0), logits(0)).eq(0).all()


def test_kl_is_right_where_probabilities_vanish_in_float32() -> None:
    base = torch.tensor([[0.0, -1.0, -120.0], [0.0, -60.0, -50.0]])
    candidate = torch.tensor([[-120.0, -1.0, 0.0], [-60.0, 0.0, -200.0]])
    assert kl_of(base, candidate).numpy() == pytest.approx(entropy(base, candidate), rel=1e-6)


@pytest.mark.parametrize("piece", [1, 700, 2**17])
def test_logits_are_compared_token_by_token(monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    monkeypatch.setitem(log_softmax.LOGITS_AT_ONCE, "cpu", piece)
    candidate, base = logits(0), logits(0) + logits(1, scale=1.0)
    targets = torch.arange(50) * 5
    found = compare_logits(candidate, base, targets)
    q, p = (special.log_softmax(x.double().numpy(), axis=-1) for x in (candidate, base))
    rows = np.arange(50)
    assert found.nll == pytest.approx(-q[rows, targets], rel=1e-13)
    assert found.nll_baseline == pytest.approx(-p[rows, targets], rel=1e-13)
    assert found.kl == pytest.approx(entropy(base, candidate), rel=1e-12)
    assert found.delta_p == pytest.approx(
        np.exp(q[rows, targets]) - np.exp(p[rows, targets]), abs=1e-15
    )
    same = q.argmax(-1) == p.argmax(-1)
    assert 0 < same.sum() < 50
    assert found.same_top.tolist() == same.tolist()
    assert {column.dtype for column in found} == {np.dtype("float64")}


def test_tied_logits_agree_if_their_first_maximum_does() -> None:
    tied = torch.tensor([[1.0, 1.0, 0.0]])
    second = torch.tensor([[0.0, 1.0, 0.0]])
    target = torch.tensor([0])
    assert compare_logits(tied, tied.clone(), target).same_top == 1
    assert compare_logits(tied, second, target).same_top == 0
