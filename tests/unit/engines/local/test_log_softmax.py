"""Log-probabilities against plain loops and 40-digit decimals, at ordinary and extreme logits."""

import math
from collections.abc import Callable
from decimal import Decimal, localcontext

import pytest
import torch

from harness.engines.local import log_softmax as module
from harness.engines.local.log_softmax import log_softmax, target_log_probs, token_nll

INF = math.inf


def logits(rows: int, vocabulary: int, scale: float = 3.0) -> torch.Tensor:
    """Float32 logits, as far below the largest as those of a language model."""
    drawn = torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(0)) * scale
    drawn[torch.arange(rows), torch.arange(rows)] = 15.0
    return drawn


def plain(row: list[float], target: int) -> float:
    """-ln p in float64, with an exact sum."""
    top = max(row)
    return math.log(math.fsum(math.exp(x - top) for x in row)) - (row[target] - top)


def in_decimal(row: list[float], target: int) -> Decimal:
    """-ln p in 40 digits."""
    with localcontext() as context:
        context.prec = 40
        top = max(row)
        total = sum((Decimal(x) - Decimal(top)).exp() for x in row if x > -INF)
        return total.ln() + Decimal(top) - Decimal(row[target])


def test_nll_over_a_large_vocabulary_is_that_of_a_plain_loop() -> None:
    x = logits(6, 49_152)
    targets = torch.tensor([0, 1, 40_000, 49_151, 7, 12_345])
    found = token_nll(x, targets)
    assert found.dtype is torch.float64
    for row, target, nll in zip(x.tolist(), targets.tolist(), found.tolist(), strict=True):
        # The issue asks for 1e-7; 49,152 roundings of float64 in any order stay below V u = 5e-12.
        assert nll == pytest.approx(plain(row, target), rel=1e-11, abs=1e-11)


def test_perplexity_is_within_1e_8_where_a_float32_loss_may_not_be() -> None:
    x = logits(64, 2_000)
    targets = torch.arange(64) + 30
    exact = math.fsum(plain(row, t) for row, t in zip(x.tolist(), targets.tolist(), strict=True))
    found = math.exp(float(token_nll(x, targets).mean()))
    assert found == pytest.approx(math.exp(exact / 64), rel=1e-12)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 100.0, 1e4])
def test_nll_is_that_of_forty_digits(scale: float) -> None:
    x = logits(5, 50, scale)
    targets = torch.tensor([0, 3, 20, 49, 7])
    for row, target, nll in zip(x.tolist(), targets.tolist(), token_nll(x, targets), strict=True):
        assert float(nll) == pytest.approx(float(in_decimal(row, target)), rel=1e-14, abs=1e-14)


@pytest.mark.parametrize("level", [0.0, -3.7, 1e4, -1e4, 3e38])
@pytest.mark.parametrize("vocabulary", [1, 2, 300, 49_152])
def test_equal_logits_give_exactly_the_logarithm_of_their_number(
    level: float, vocabulary: int
) -> None:
    found = token_nll(torch.full((3, vocabulary), level), torch.zeros(3, dtype=torch.long))
    assert found.tolist() == [pytest.approx(math.log(vocabulary), rel=2**-52, abs=0)] * 3


def test_one_hot_logits() -> None:
    x = torch.tensor([[-INF, 5.0, -INF], [0.0, 1e4, -1e4]])
    assert token_nll(x, torch.tensor([1, 1])).tolist() == [0.0, 0.0]
    assert token_nll(x, torch.tensor([0, 0])).tolist() == [INF, 1e4]
    assert token_nll(x, torch.tensor([2, 2])).tolist() == [INF, 2e4]


def test_masked_logits_have_no_share() -> None:
    x = logits(4, 40)
    masked = torch.cat([x, torch.full((4, 25), -INF)], dim=1)
    targets = torch.tensor([0, 9, 2, 39])
    torch.testing.assert_close(
        token_nll(masked, targets), token_nll(x, targets), rtol=1e-14, atol=1e-15
    )


@pytest.mark.parametrize("bad", [math.nan, INF])
def test_a_row_with_what_is_no_number_is_nan_and_others_are_not(bad: float) -> None:
    x = logits(3, 10)
    x[1, 4] = bad
    found = token_nll(x, torch.tensor([0, 1, 2]))
    assert found.isnan().tolist() == [False, True, False]
    assert log_softmax(x).isnan().all(dim=1).tolist() == [False, True, False]
    assert token_nll(torch.full((1, 4), -INF), torch.tensor([0])).isnan().all()


@pytest.mark.parametrize("piece", [1, 40, 119, 10**6])
def test_pieces_change_nothing(piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module.LOGITS_AT_ONCE, "cpu", piece)
    x, targets = logits(10, 40), torch.arange(10) * 4
    expected = [plain(row, t) for row, t in zip(x.tolist(), targets.tolist(), strict=True)]
    assert token_nll(x, targets).tolist() == pytest.approx(expected, rel=1e-14)


def test_log_softmax_is_the_nll_of_every_token_and_sums_to_one() -> None:
    x = logits(3, 200)
    found = log_softmax(x)
    assert found.dtype is torch.float64
    for target in (0, 50, 199):
        nll = token_nll(x, torch.full((3,), target))
        torch.testing.assert_close(-found[:, target], nll, rtol=1e-14, atol=1e-15)
    torch.testing.assert_close(found.exp().sum(-1), torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize(
    "run", [lambda x: log_softmax(x), lambda x: token_nll(x, torch.tensor([0, 1]))]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_logits_are_left_as_they_are(
    run: Callable[[torch.Tensor], torch.Tensor], dtype: torch.dtype
) -> None:
    x = logits(2, 9).to(dtype)
    before = x.clone()
    run(x)
    assert torch.equal(x, before)


@pytest.mark.parametrize("piece", [1, 3, 100])
def test_log_probs_of_several_targets_a_row_are_those_of_one(
    piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = logits(7, 50)
    x[4, 30] = math.nan
    monkeypatch.setitem(module.LOGITS_AT_ONCE, "cpu", 50 * piece)
    rows, targets = torch.tensor([0, 0, 2, 2, 2, 4, 6]), torch.tensor([0, 9, 2, 3, 4, 4, 6])
    log_probs, is_top = target_log_probs(x, rows, targets)
    one = torch.stack(
        [-token_nll(x[r : r + 1], t[None])[0] for r, t in zip(rows, targets, strict=True)]
    )
    assert log_probs.numpy().tobytes() == one.numpy().tobytes()
    # `logits` puts the largest one of row r at place r.
    assert is_top.tolist() == [True, False, True, False, False, False, True]


def test_tied_targets_are_all_the_top() -> None:
    x = torch.tensor([[1.0, 3.0, 3.0, -INF]])
    log_probs, is_top = target_log_probs(x, torch.zeros(4, dtype=torch.long), torch.arange(4))
    assert is_top.tolist() == [False, True, True, False]
    assert log_probs[3] == -INF
