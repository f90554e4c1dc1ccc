"""The noise floor: each variant against a model made that way, and the model left as it was."""

import copy
import functools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from scipy import special
from scipy import stats as scipy_stats

from harness.backends.layer import LayerRule
from harness.data.embedded import EmbeddedData
from harness.engines.base import Variant
from harness.engines.local.engine import LocalEngine
from harness.engines.local.split_model import split
from harness.engines.local.variants import VariantEngine
from harness.errors import ConfigError, ModelError
from harness.formats.integer import Integer
from harness.models.loaded import LoadedModel
from harness.models.sources.tiny import TinyModel
from harness.quant.granularity import Granularity
from harness.quant.schemes.block_scaled import BlockScaled
from harness.recipe import QuantRecipe, quantize
from harness.tasks.base import TaskResult
from harness.tasks.divergence import noise_floor
from harness.tasks.divergence.noise_floor import NoiseFloor
from harness.tasks.mmlu.direct import Direct
from harness.tasks.mmlu.generate import Generate
from harness.tasks.mmlu.mmlu import MMLU

CPU = torch.device("cpu")
TASK = NoiseFloor(data=EmbeddedData(), window=100, limit_windows=3)
VOCAB = 261
VARIANTS = ("dtype", "attention", "batch")


@functools.cache
def shared(dtype: Any) -> LoadedModel:
    """Return a model whose tokens of the text are kept for all tests."""
    return TinyModel(dtype=dtype).load(CPU)


@pytest.fixture(params=["float32", "bfloat16"])
def loaded(request: pytest.FixtureRequest) -> LoadedModel:
    return shared(request.param)


def values(result: TaskResult) -> dict[str, float]:
    return {metric.name: metric.value for metric in result.metrics}


def windows(loaded: LoadedModel, count: int = 3) -> torch.Tensor:
    begin = EmbeddedData().text().text[: 200 * count]  # the whole text has far more tokens
    return torch.tensor(loaded.tokenizer(begin)["input_ids"][: 100 * count]).view(count, 100)


def log_probs(module: torch.nn.Module, ids: torch.Tensor) -> np.ndarray:
    """Return float64 log-probabilities by a plain pass with a float32 head, `[n, L - 1, V]`."""
    with torch.no_grad():
        hidden = torch.cat([module.model(row[None]).last_hidden_state for row in ids])[:, :-1]
        logits = hidden.float() @ module.lm_head.weight.float().T
    return special.log_softmax(logits.double().numpy(), axis=-1)


def test_every_variant_has_its_figures(loaded: LoadedModel) -> None:
    result = TASK.run(LocalEngine(loaded))
    names = {metric.name.split("/")[0] for metric in result.metrics}
    assert names == set(VARIANTS)
    assert {metric.name.split("/")[1] for metric in result.metrics} == set(noise_floor.REPORTED)
    assert len(result.metrics) == len(VARIANTS) * len(noise_floor.REPORTED)
    assert result.warnings == ()
    for name, value in values(result).items():
        assert value >= 0 or name.endswith("ratio")
        assert value <= 1


def test_float32_kernels_agree_but_bfloat16_is_far_off() -> None:
    found = values(TASK.run(LocalEngine(shared("float32"))))
    # Random weights of this size have logits near 10. Their float32 errors are near 1e-6, and KL is
    # half the square of these.
    assert found["batch/kl_max"] < 1e-9
    assert 0 < found["attention/kl_mean"] < 1e-9
    assert found["attention/same_top"] == 1.0
    assert 1e-4 < found["dtype/kl_mean"] < 0.1


def test_other_type_is_that_of_a_model_with_cast_parameters(loaded: LoadedModel) -> None:
    other = copy.deepcopy(loaded.module)
    dtype = torch.bfloat16 if loaded.dtype is torch.float32 else torch.float32
    for parameter in other.parameters():
        parameter.data = parameter.data.to(dtype)
    ids = windows(loaded)
    p, q = log_probs(loaded.module, ids), log_probs(other, ids)
    kl = scipy_stats.entropy(np.exp(p), np.exp(q), axis=-1)
    target = ids[:, 1:, None].numpy()
    ratio = float((np.take_along_axis(p - q, target, -1)).mean())
    result = TASK.run(LocalEngine(loaded))
    found = values(result)
    assert found["dtype/kl_mean"] == pytest.approx(kl.mean(), rel=1e-4)
    assert found["dtype/kl_max"] == pytest.approx(kl.max(), rel=1e-4)
    same = (p.argmax(-1) == q.argmax(-1)).mean()
    assert found["dtype/same_top"] == pytest.approx(same)
    assert found["dtype/ln_ppl_ratio"] == pytest.approx(ratio, rel=1e-4, abs=1e-7)
    assert f"dtype={str(dtype).removeprefix('torch.')}" in result.info.protocol


def test_model_that_is_eager_already_is_measured_with_the_fused_kernel() -> None:
    loaded = TinyModel().load(CPU)
    loaded.module.set_attn_implementation("eager")
    result = TASK.run(LocalEngine(loaded))
    assert "attention=sdpa" in result.info.protocol
    assert values(result)["attention/kl_mean"] > 0
    assert loaded.module.config._attn_implementation == "eager"


def test_windows_are_run_two_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = TinyModel().load(CPU)
    body, sizes = loaded.module.base_model, []

    def forward(ids: torch.Tensor, **options: object) -> object:
        sizes.append(len(ids))
        return type(body).forward(body, ids, **options)

    with split(loaded):  # a model is looked over when it is first scored
        pass
    monkeypatch.setattr(body, "forward", forward)
    TASK.run(LocalEngine(loaded))
    # The baseline once, and two variants one by one; three windows make two pairs.
    assert sorted(sizes) == [1] * 9 + [2] * 2


def test_model_is_left_as_it_was(loaded: LoadedModel) -> None:
    before = dict(loaded.module.named_parameters(remove_duplicate=False))
    state = {name: tensor.clone() for name, tensor in loaded.module.state_dict().items()}
    buffers = {name: tensor.clone() for name, tensor in loaded.module.named_buffers()}
    TASK.run(LocalEngine(loaded))
    after = dict(loaded.module.named_parameters(remove_duplicate=False))
    assert list(after) == list(before)
    assert all(after[name] is parameter for name, parameter in before.items())
    assert all(torch.equal(tensor, state[n]) for n, tensor in loaded.module.state_dict().items())
    assert all(torch.equal(tensor, buffers[n]) for n, tensor in loaded.module.named_buffers())
    assert {parameter.dtype for parameter in after.values()} == {loaded.dtype}
    assert loaded.module.lm_head.weight is loaded.module.model.embed_tokens.weight
    assert loaded.module.config._attn_implementation == "sdpa"
    assert loaded.module.model.config._attn_implementation == "sdpa"
    assert "forward" not in vars(loaded.module.lm_head)


def unsupported(implementation: object) -> None:
    """What transformers does for a kernel that the model lacks."""
    if implementation == "eager":
        raise ValueError("TinyModel does not support eager")


@pytest.mark.parametrize(
    ("method", "becomes", "reason"),
    [
        ("set_attn_implementation", unsupported, "does not support eager"),
        ("_can_set_attn_implementation", lambda: False, "has one attention implementation, sdpa"),
    ],
)
def test_variant_that_cannot_run_is_a_warning_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, method: str, becomes: Callable[..., object], reason: str
) -> None:
    loaded = shared("float32")
    monkeypatch.setattr(loaded.module.model, method, becomes)
    result = TASK.run(LocalEngine(loaded))
    (warning,) = result.warnings
    assert warning.startswith("attention=eager was not measured")
    assert reason in warning
    assert {name.split("/")[0] for name in values(result)} == {"batch", "dtype"}
    assert not any(name.startswith("attention") for name in result.samples[0].scores)
    assert loaded.module.config._attn_implementation == "sdpa"


def test_nothing_measured_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def fail() -> Iterator[None]:
        raise RuntimeError("no kernel")
        yield

    engine = LocalEngine(shared("float32"))
    variant = Variant("batch", "2", VariantEngine(engine.of(engine.loaded, within=fail)))
    monkeypatch.setattr(engine, "variants", lambda: iter([variant]))
    with pytest.raises(ModelError, match=r"batch=2 was not measured.*RuntimeError: no kernel"):
        TASK.run(engine)


@pytest.mark.parametrize("with_inputs", [False, True])
def test_quantized_model_is_refused(tiny: LoadedModel, with_inputs: bool) -> None:
    fmt = BlockScaled(element=Integer(bits=8), granularity=Granularity(block=(1, -1)))
    rule = LayerRule(match="*", weight=fmt, input=fmt if with_inputs else None)
    quantize(tiny, QuantRecipe(name="test", rules={"all": rule}))
    with pytest.raises(
        ConfigError, match=r"quant must be none for noise_floor, .* leave quant out"
    ):
        TASK.run(LocalEngine(tiny))


def test_items_are_the_windows_with_the_sums_of_every_variant(loaded: LoadedModel) -> None:
    result = TASK.run(LocalEngine(loaded))
    assert [sample.id.rsplit("/", 1)[1] for sample in result.samples] == ["0", "1", "2"]
    for variant in VARIANTS:
        kl = math.fsum(sample.scores[f"{variant}/kl"] for sample in result.samples)
        nll = math.fsum(
            sample.scores[f"{variant}/nll"] - sample.scores["nll_baseline"]
            for sample in result.samples
        )
        found = values(result)
        assert found[f"{variant}/kl_mean"] == pytest.approx(kl / 297, rel=1e-9)
        assert found[f"{variant}/ln_ppl_ratio"] == pytest.approx(nll / 297, rel=1e-6, abs=1e-12)
    p = log_probs(loaded.module, windows(loaded))
    expected = -np.take_along_axis(p, windows(loaded)[:, 1:, None].numpy(), -1)[..., 0]
    for sample, nll in zip(result.samples, expected, strict=True):
        assert sample.token_nll == pytest.approx(nll, rel=1e-5)


def test_sizes_that_score_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="window must be >= 2"):
        NoiseFloor(data=EmbeddedData(), window=1)
    with pytest.raises(ValueError, match="limit_windows must be >= 1"):
        NoiseFloor(data=EmbeddedData(), limit_windows=0)


QUESTIONS = MMLU(data=EmbeddedData(), answer=Direct(), limit=8)
"""So few that a pass of half the size has other requests."""


def test_flips_are_those_of_answers_by_another_order_of_sums(loaded: LoadedModel) -> None:
    task = NoiseFloor(data=EmbeddedData(), window=100, limit_windows=3, questions=QUESTIONS)
    result = task.run(LocalEngine(loaded))
    found = values(result)
    before = {s.id: s.answer for s in QUESTIONS.run(LocalEngine(loaded)).samples}
    half = LocalEngine(loaded, batch_tokens=LocalEngine(loaded).batch_tokens // 2)
    after = {s.id: s.answer for s in QUESTIONS.run(half).samples}
    changed = sum(before[question] != after[question] for question in before)
    assert found["batch/answer_disagreement"] == changed / len(before)
    assert "dtype/flips" not in found, "the model in another type is not asked"
    samples = [sample.id for sample in result.samples if sample.id.startswith("batch/")]
    assert samples == [f"batch/{question}" for question in before]
    assert "questions=(" in result.info.protocol


def test_questions_leave_the_figures_of_the_text_as_they_are(loaded: LoadedModel) -> None:
    asked = NoiseFloor(data=EmbeddedData(), window=100, limit_windows=3, questions=QUESTIONS)
    alone, both = (values(task.run(LocalEngine(loaded))) for task in (TASK, asked))
    assert alone == {name: value for name, value in both.items() if name in alone}


def test_questions_of_another_rule_have_no_probabilities() -> None:
    questions = MMLU(data=EmbeddedData(), answer=Generate(), limit=8)
    with pytest.raises(ValueError, match="direct rule alone"):
        NoiseFloor(data=EmbeddedData(), questions=questions)
