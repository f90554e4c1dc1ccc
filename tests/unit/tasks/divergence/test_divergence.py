"""Divergence of a model from its baseline, against two separate models and plain loops."""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import special
from scipy import stats as scipy_stats

from harness.backends.layer import LayerRule
from harness.data.embedded import EmbeddedData
from harness.data.source import QuestionSet, Text
from harness.engines.local import compare as compare_module
from harness.engines.local.engine import LocalEngine
from harness.errors import DataError, InvalidResult
from harness.formats.integer import Integer
from harness.models.loaded import LoadedModel
from harness.models.sources.tiny import TinyModel
from harness.quant.granularity import Granularity
from harness.quant.schemes.block_scaled import BlockScaled
from harness.recipe import QuantRecipe, audit_after, quantize
from harness.tasks.base import TaskResult
from harness.tasks.divergence.divergence import Divergence
from harness.tasks.mmlu.direct import Direct
from harness.tasks.mmlu.generate import Generate
from harness.tasks.mmlu.mmlu import MMLU
from harness.tasks.perplexity.perplexity import Perplexity

CPU = torch.device("cpu")
VOCAB = 261
HEAD_TOO = ("embed_tokens",)
SUMS = 80 * 2.0**-24
"""Relative error of a sum of 80 float32 numbers, the longest of the model, whatever its order."""
HEAD_NOT = ("embed_tokens", "lm_head")


@dataclass(frozen=True, kw_only=True, slots=True)
class Fixed:
    """A data source of one text."""

    content: str

    def text(self) -> Text:
        """Return the text."""
        digest = hashlib.sha256(self.content.encode()).hexdigest()
        return Text(name="fixed", text=self.content, sha256=digest, num_rows=1)

    def questions(self) -> QuestionSet:
        """Return nothing."""
        raise NotImplementedError


def prose(length: int) -> Fixed:
    """Return so many bytes of real text, one token each."""
    ascii_only = EmbeddedData().text().text.encode("ascii", "ignore").decode()
    return Fixed(content=ascii_only.translate(dict.fromkeys(map(ord, "ABCD"), "x"))[:length])


@pytest.fixture
def fresh() -> LoadedModel:
    """A model that no other test has kept anything with."""
    return TinyModel().load(CPU)


def integers(
    bits: int, skip: tuple[str, ...] = HEAD_NOT, input_bits: int | None = None
) -> QuantRecipe:
    """Return a recipe of integers with one scale a row, of weights and perhaps of inputs."""

    def rows(count: int) -> BlockScaled:
        return BlockScaled(element=Integer(bits=count), granularity=Granularity(block=(1, -1)))

    rule = LayerRule(match="*", weight=rows(bits), input=rows(input_bits) if input_bits else None)
    return QuantRecipe(name="integers", rules={"all": rule}, skip=skip)


def values(result: TaskResult) -> dict[str, float]:
    return {metric.name: metric.value for metric in result.metrics}


def log_probs(loaded: LoadedModel, ids: list[int]) -> np.ndarray:
    """Return float64 log-probabilities `[L - 1, V]` from one plain forward pass."""
    with torch.no_grad():
        logits = loaded.module(torch.tensor([ids])).logits[0, :-1]
    return special.log_softmax(logits.double().numpy(), axis=-1)


RECIPES = [
    integers(8),
    integers(4),
    integers(4, skip=HEAD_TOO),
    integers(8, input_bits=8),
    integers(8, skip=HEAD_TOO, input_bits=4),
]


@pytest.mark.parametrize("recipe", RECIPES, ids=["int8", "int4", "head", "w8a8", "head-w8a4"])
def test_sums_of_a_window_are_those_of_two_separate_models(
    fresh: LoadedModel, recipe: QuantRecipe
) -> None:
    data = prose(300)
    float_model = TinyModel().load(CPU)
    quantize(fresh, recipe)
    result = Divergence(data=data, window=100).run(LocalEngine(fresh))
    ids = fresh.tokenizer(data.content)["input_ids"]
    for index, sample in enumerate(result.samples):
        part = ids[100 * index : 100 * (index + 1)]
        q, p = log_probs(fresh, part), log_probs(float_model, part)
        picked_q, picked_p = (x[np.arange(99), part[1:]] for x in (q, p))
        delta_p = np.exp(picked_q) - np.exp(picked_p)
        expected = {
            "num_tokens": 99,
            "nll": -picked_q.sum(),
            "nll_baseline": -picked_p.sum(),
            "kl": scipy_stats.entropy(np.exp(p), np.exp(q), axis=-1).sum(),
            "same_top": (q.argmax(-1) == p.argmax(-1)).sum(),
            "delta_p": delta_p.sum(),
            "delta_p_squared": (delta_p**2).sum(),
        }
        assert sample.scores == pytest.approx(expected, rel=2e-4, abs=1e-6)
        assert sample.token_nll == pytest.approx(-picked_q, rel=1e-5)
    assert values(result)["kl_mean"] > 0


def test_uniform_candidate_in_closed_form(fresh: LoadedModel) -> None:
    """KL(p || uniform) = ln V - H(p), and every token has the probability 1 / V."""
    data = prose(200)
    entropies = scipy_stats.entropy(
        np.exp(log_probs(fresh, fresh.tokenizer(data.content)["input_ids"])), axis=-1
    )
    fresh.swap_parameter(fresh.module.lm_head, "weight", torch.zeros(VOCAB, 48))
    found = values(Divergence(data=data, window=200).run(LocalEngine(fresh)))
    assert found["kl_mean"] == pytest.approx(math.log(VOCAB) - entropies.mean(), rel=1e-5)
    assert found["kl_max"] == pytest.approx(math.log(VOCAB) - entropies.min(), rel=1e-5)
    assert found["ppl"] == pytest.approx(VOCAB, rel=1e-6)
    assert found["ppl_correlation"] is None


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kept", [0, 2**30])
def test_unquantized_model_differs_from_itself_by_exactly_nothing(
    monkeypatch: pytest.MonkeyPatch, dtype: str, kept: int
) -> None:
    monkeypatch.setattr(compare_module, "KEPT_BYTES", kept)
    loaded = TinyModel(dtype=dtype).load(CPU)
    found = values(Divergence(data=prose(1200), window=100).run(LocalEngine(loaded)))
    nothing = {name for name in found if name.startswith(("kl_", "delta_p_"))}
    for name in (*nothing, "ln_ppl_ratio", "ppl_difference"):
        assert found[name] == 0.0, name
    assert found["same_top"] == 1.0
    assert found["ppl_ratio"] == 1.0
    assert found["ppl"] == found["ppl_baseline"]


@pytest.mark.parametrize("recipe", RECIPES, ids=["int8", "int4", "head", "w8a8", "head-w8a4"])
def test_both_perplexities_are_those_of_the_perplexity_task(
    fresh: LoadedModel, recipe: QuantRecipe
) -> None:
    task = Perplexity(data=prose(300), window=100)
    as_float = task.run(LocalEngine(fresh))
    quantize(fresh, recipe)
    quantized = task.run(LocalEngine(fresh))
    result = Divergence(data=prose(300), window=100).run(LocalEngine(fresh))
    for sample, was, now in zip(result.samples, as_float.samples, quantized.samples, strict=True):
        assert sample.id == was.id
        # One task runs a window alone, the other several at once: a processor may sum matmuls of
        # other shapes in another order.
        assert sample.scores["nll_baseline"] == pytest.approx(was.scores["nll"], rel=SUMS)
        assert sample.token_nll == pytest.approx(now.token_nll, rel=0, abs=_within(recipe))


def _within(recipe: QuantRecipe) -> float:
    """Return how far -ln p of a token may move with the order of sums [nat].

    Logits here lie within +-16, so their last place is worth 2^-19, and sums of up to 80 terms
    differ by a few of them. Where activations are rounded, a sum at a tie may also take the next code: for
    one activation in 10^5, by 1/7 (four bits) or 1/127 of its token's largest.
    """
    bits = [rule.input.element.bits for rule in recipe.rules.values() if rule.input is not None]
    return 2.0 / (2 ** (bits[0] - 1) - 1) if bits else 64 * 2.0**-19


def test_fewer_bits_diverge_more(fresh: LoadedModel) -> None:
    task = Divergence(data=prose(1000), window=100)
    found = []
    for bits in (8, 6, 4, 2):
        quantize(fresh, integers(bits))
        found.append(values(task.run(LocalEngine(fresh))))
        fresh.restore()
    for less, more in pairwise(found):
        assert 0 < less["kl_mean"] < more["kl_mean"]
        assert less["kl_p99"] < more["kl_p99"]
        assert less["same_top"] > more["same_top"]
        assert less["ppl_correlation"] > more["ppl_correlation"]
    assert len({f["ppl_baseline"] for f in found}) == 1


def test_sums_of_the_windows_make_the_metrics(fresh: LoadedModel) -> None:
    quantize(fresh, integers(4))
    result = Divergence(data=prose(300), window=100).run(LocalEngine(fresh))
    found = values(result)
    tokens = sum(sample.scores["num_tokens"] for sample in result.samples)

    def mean(name: str) -> float:
        return math.fsum(sample.scores[name] for sample in result.samples) / tokens

    assert tokens == 297
    assert {metric.n for metric in result.metrics} == {297}
    assert found["kl_mean"] == pytest.approx(mean("kl"), rel=1e-12)
    assert found["same_top"] == pytest.approx(mean("same_top"), rel=1e-12)
    assert found["delta_p_rms"] == pytest.approx(math.sqrt(mean("delta_p_squared")), rel=1e-12)
    assert found["ppl_ratio"] == pytest.approx(math.exp(mean("nll") - mean("nll_baseline")))


def test_quantized_weights_are_in_place_afterwards_and_float_ones_after_restoring(
    fresh: LoadedModel,
) -> None:
    before = dict(fresh.module.named_parameters(remove_duplicate=False))
    quantize(fresh, integers(4, skip=HEAD_TOO, input_bits=8))
    quantized = dict(fresh.module.named_parameters(remove_duplicate=False))
    Divergence(data=prose(300), window=100).run(LocalEngine(fresh))
    audit_after(fresh)
    after = dict(fresh.module.named_parameters(remove_duplicate=False))
    assert all(after[name] is parameter for name, parameter in quantized.items())
    assert not fresh.is_float
    fresh.restore()
    restored = dict(fresh.module.named_parameters(remove_duplicate=False))
    assert restored.keys() == before.keys()
    assert all(restored[name] is parameter for name, parameter in before.items())
    assert "forward" not in vars(fresh.module.lm_head)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_candidate_that_is_not_finite_is_an_invalid_result(fresh: LoadedModel, bad: float) -> None:
    weight = fresh.module.lm_head.weight.detach().clone()
    weight[5] = bad
    fresh.swap_parameter(fresh.module.lm_head, "weight", weight)
    with pytest.raises(InvalidResult, match="from the candidate in window 0"):
        Divergence(data=prose(300), window=100).run(LocalEngine(fresh))


def test_unquantized_model_that_is_not_finite_is_named_as_such(fresh: LoadedModel) -> None:
    healthy = fresh.module.lm_head.weight.detach().clone()
    with torch.no_grad():
        fresh.module.lm_head.weight[5] = math.nan
    fresh.swap_parameter(fresh.module.lm_head, "weight", healthy)
    fresh.swap_parameter(fresh.module.model.embed_tokens, "weight", healthy)
    with pytest.raises(InvalidResult, match="from the unquantized model in window 0"):
        Divergence(data=prose(300), window=100).run(LocalEngine(fresh))


def test_limit_compares_the_first_windows(fresh: LoadedModel) -> None:
    quantize(fresh, integers(8))
    whole = Divergence(data=prose(500), window=100).run(LocalEngine(fresh))
    limited = Divergence(data=prose(500), window=100, limit_windows=2).run(LocalEngine(fresh))
    assert limited.samples == whole.samples[:2]
    assert "windows=first-2" in limited.info.protocol
    assert "windows=all" in whole.info.protocol
    assert limited.info.data["num_windows"] == 2


def test_window_longer_than_the_model_is_refused(fresh: LoadedModel) -> None:
    with pytest.raises(DataError, match="at most the 8192 tokens"):
        Divergence(data=prose(9000), window=8193).run(LocalEngine(fresh))


MISTAKES: list[tuple[Callable[[], Divergence], str]] = [
    (lambda: Divergence(data=prose(10), window=1), "window must be >= 2"),
    (lambda: Divergence(data=prose(10), limit_windows=0), "limit_windows must be >= 1"),
    (
        lambda: Divergence(data=prose(10), questions=MMLU(data=EmbeddedData(), answer=Generate())),
        "questions must be answered by the direct rule alone, .* got Generate",
    ),
    (
        lambda: Divergence(
            data=prose(10),
            questions=MMLU(data=EmbeddedData(), answer=Direct(), answers=("direct", "generate")),
        ),
        "questions must be answered by the direct rule alone, .* got Generate",
    ),
]


@pytest.mark.parametrize(("make", "message"), MISTAKES)
def test_what_cannot_be_compared_is_refused(make: Callable[[], Divergence], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
