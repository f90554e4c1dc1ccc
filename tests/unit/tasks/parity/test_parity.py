"""Real beside fake: no difference if a backend computes the same, numpy's differences if not."""

import copy
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from scipy import special
from scipy import stats as scipy_stats
from torch import Tensor, nn

from harness import config
from harness.backends import probe
from harness.backends.base import Installed
from harness.backends.fake import FakeBackend
from harness.backends.layer import LayerRule, QuantizedLayer
from harness.config import CONF
from harness.data.embedded import EmbeddedData
from harness.engines.local.engine import Local, LocalEngine
from harness.errors import ConfigError, DataError, InvalidResult, ModelError
from harness.formats.integer import Integer
from harness.models import cache
from harness.models.loaded import LoadedModel
from harness.models.sources.tiny import TinyModel
from harness.models.targets.targets import Target
from harness.quant.granularity import Granularity
from harness.quant.primitives import fake_quantize
from harness.quant.schemes.block_scaled import BlockScaled
from harness.recipe import QuantRecipe, quantize
from harness.results.record import Metric, Status
from harness.results.store import ResultStore, read, read_samples
from harness.runner.run import RunSpec, run
from harness.sinks.deliver import Sinks
from harness.tasks.base import PairedTask, TaskResult
from harness.tasks.divergence.divergence import Divergence
from harness.tasks.parity import parity
from harness.tasks.parity.parity import Parity, Reference

CPU = torch.device("cpu")
FORMAT = BlockScaled(element=Integer(bits=4), granularity=Granularity(block=(1, -1)))
RECIPE = QuantRecipe(name="four", rules={"linear": LayerRule(match="*", weight=FORMAT)})
TASK = Parity(data=EmbeddedData(), window=24, limit_windows=12, decode=6)
NAMES = [
    "logprob_difference",
    "logprob_difference_max",
    "kl",
    "top1_agreement",
    "float_kl_fake",
    "float_kl_real",
    "layer_difference",
    "within_tolerance",
]

Change = Callable[[Tensor, Tensor], Tensor]
"""Makes an output of a layer another: (input, output) -> output."""


class Stored(nn.Linear):
    """A layer that multiplies with the dequantized weight, then errs as a wrong kernel would."""

    def __init__(self, like: nn.Linear, weight: Tensor, change: Change) -> None:
        super().__init__(like.in_features, like.out_features, bias=False, device="meta")
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        return self.change(x, super().forward(x))


def unchanged(_x: Tensor, y: Tensor) -> Tensor:
    return y


@dataclass(frozen=True, kw_only=True)
class Real:
    """A "real" backend that is as exact, or as wrong, as `change` makes it."""

    change: Change = unchanged
    layer: str = "mlp.down_proj"
    """Changed are the layers whose names end so."""
    tolerance: Mapping[str, float] = field(default_factory=lambda: {"float32": 0.01})
    name: ClassVar[str] = "stand_in"
    kind: ClassVar[Literal["real"]] = "real"

    def supports(self, rules: Sequence[LayerRule], device: torch.device) -> str | None:
        return None

    def apply(self, loaded: LoadedModel, target: Target, layer: QuantizedLayer) -> None:
        assert isinstance(target.owner, nn.Linear)
        change = self.change if target.name.endswith(self.layer) else unchanged
        weight = layer.weight.dequantize().to(target.weight.dtype)
        loaded.swap_module(target.name, Stored(target.owner, weight, change))

    def inspect(self, loaded: LoadedModel, target: Target, layer: QuantizedLayer) -> Installed:
        return Installed(kernel="stand-in", stored_bytes=layer.weight.total_bits // 8)


def noisy(_x: Tensor, y: Tensor) -> Tensor:
    """Add what is the same for the same output."""
    return y + 0.2 * torch.sin(10 * y)


@functools.cache
def shared(dtype: Any = "float32") -> LoadedModel:
    """Return a model whose tokens of the text are kept for all tests."""
    return TinyModel(dtype=dtype).load(CPU)


def fake_reference(task: Parity, loaded: LoadedModel) -> Reference:
    assert isinstance(task, PairedTask)
    loaded.restore()
    quantize(loaded, replace(RECIPE, backend=FakeBackend()))
    reference = task.reference(LocalEngine(loaded))
    loaded.restore()
    return reference


@functools.cache
def shared_reference(task: Parity, dtype: str) -> Reference:
    return fake_reference(task, shared(dtype))


def beside(
    backend: Real, task: Parity = TASK, dtype: str = "float32"
) -> tuple[TaskResult, LoadedModel]:
    """Do by hand what a run does: fake, then real."""
    loaded, reference = shared(dtype), shared_reference(task, dtype)
    loaded.restore()
    quantize(loaded, replace(RECIPE, backend=backend))
    return task.run_beside(LocalEngine(loaded), reference, backend.tolerance), loaded


def metric(result: TaskResult, name: str) -> Metric:
    return next(metric for metric in result.metrics if metric.name == name)


def values(result: TaskResult) -> dict[str, float | None]:
    return {metric.name: metric.value for metric in result.metrics}


# Equal models


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("decode", [0, 6])
def test_backend_that_computes_the_same_differs_by_exactly_nothing(dtype: str, decode: int) -> None:
    backend = Real(tolerance={"float32": 0.0, "bfloat16": 0.0})
    result, _ = beside(backend, replace(TASK, decode=decode), dtype)
    found = values(result)
    assert list(found) == NAMES
    assert found["logprob_difference"] == found["logprob_difference_max"] == found["kl"] == 0
    assert found["layer_difference"] == 0
    assert found["top1_agreement"] == found["within_tolerance"] == 1
    assert found["float_kl_fake"] == found["float_kl_real"]
    assert found["float_kl_fake"] > 0.01
    assert result.warnings == ()


def test_every_metric_has_n_unit_and_interval_or_note() -> None:
    result, _ = beside(Real(change=noisy))
    assert [metric.unit for metric in result.metrics] == [
        *["nat/token"] * 3,
        "fraction",
        *["nat/token"] * 2,
        *["1"] * 2,
    ]
    for found in result.metrics:
        assert found.ci95 or found.note
    tokens, layers = result.metrics[:-2], result.metrics[-2:]
    assert {(found.n, found.n_of) for found in tokens} == {(12 * 23, "token")}
    # Seven of each of two layers; the head stays in float.
    assert {(found.n, found.n_of) for found in layers} == {(14, "layer")}
    # All of the text is of two documents.
    assert metric(result, "kl").ci95 is None
    assert metric(result, "kl").note == (
        "no interval from 2 documents, worth 1.7 of equal size; it takes 5"
    )


def test_windows_of_random_tokens_are_independent() -> None:
    result, _ = beside(Real(change=noisy), replace(TASK, prompts="random"))
    means = [sample.scores["difference"] / 23 for sample in result.samples]
    interval = scipy_stats.ttest_1samp(means, 0).confidence_interval(0.95)
    found = metric(result, "logprob_difference")
    assert found.ci95 == pytest.approx(tuple(interval), rel=1e-6)
    assert found.note == "interval by window, 12 of them"
    few, _ = beside(Real(), replace(TASK, prompts="random", limit_windows=4))
    assert metric(few, "kl").note == "no interval from 4 windows; it takes 5"


# Unequal models


def numpy_log_probs(module: nn.Module, ids: Tensor) -> np.ndarray:
    """Return float64 log-probabilities of whole windows by a plain pass, `[n, L - 1, V]`."""
    with torch.no_grad():
        logits = torch.cat([module(row[None], use_cache=False).logits for row in ids])[:, :-1]
    return special.log_softmax(logits.double().numpy(), axis=-1)


def test_numbers_are_those_of_numpy() -> None:
    exact = TinyModel().load(CPU).module
    result, loaded = beside(Real(change=noisy))
    real = copy.deepcopy(loaded.module)
    loaded.restore()
    quantize(loaded, RECIPE)
    text = EmbeddedData().text().text
    ids = torch.tensor(loaded.tokenizer(text)["input_ids"][: 12 * 24]).view(12, 24)
    p, q, e = (numpy_log_probs(module, ids) for module in (loaded.module, real, exact))
    index = ids[:, 1:, None].numpy()
    difference = np.abs(np.take_along_axis(q - p, index, -1))[..., 0]
    found = values(result)
    # float32 logits near 10 and their log-softmax are good to 1e-5.
    assert found["logprob_difference"] == pytest.approx(difference.mean(), abs=1e-5)
    assert found["logprob_difference_max"] == pytest.approx(difference.max(), abs=3e-5)
    entropy = scipy_stats.entropy
    for name, first, second in (("kl", p, q), ("float_kl_fake", e, p), ("float_kl_real", e, q)):
        kl = entropy(np.exp(first), np.exp(second), axis=-1).mean()
        assert found[name] == pytest.approx(kl, rel=1e-3), name
    assert found["kl"] > 1e-4
    assert found["top1_agreement"] == pytest.approx((p.argmax(-1) == q.argmax(-1)).mean())
    summed = [sample.scores["difference"] for sample in result.samples]
    assert summed == pytest.approx(difference.sum(axis=1), abs=3e-4)


def test_float_side_is_that_of_divergence() -> None:
    result, loaded = beside(Real(change=noisy), replace(TASK, decode=0))
    divergence = Divergence(data=EmbeddedData(), window=24, limit_windows=12).run(
        LocalEngine(loaded)
    )
    kl = next(m.value for m in divergence.metrics if m.name == "kl_mean")
    assert metric(result, "float_kl_real").value == pytest.approx(kl, rel=1e-3)


# Layer by layer


def inputs_of(loaded: LoadedModel, ids: Tensor) -> dict[str, Tensor]:
    """Return what goes into each down projection of the model as it stands."""
    found: dict[str, Tensor] = {}
    with torch.no_grad():
        output = loaded.module.model(ids[None], output_hidden_states=True)
        for index, layer in enumerate(loaded.module.model.layers):
            mlp = layer.mlp
            x = output.hidden_states[index]
            rotary = loaded.module.model.rotary_emb(x, torch.arange(len(ids))[None])
            attended = layer.self_attn(layer.input_layernorm(x), rotary, None)[0]
            h = layer.post_attention_layernorm(x + attended)
            found[f"model.layers.{index}.mlp.down_proj"] = (
                nn.functional.silu(mlp.gate_proj(h)) * mlp.up_proj(h)
            )[0]
    return found


def relative(fake: np.ndarray, real: np.ndarray) -> float:
    return float(np.linalg.norm(real - fake) / np.linalg.norm(fake))


def test_layers_are_compared_on_the_inputs_of_the_fake_model() -> None:
    result, loaded = beside(Real(change=noisy), replace(TASK, decode=0))
    loaded.restore()
    quantize(loaded, RECIPE)
    ids = torch.tensor(loaded.tokenizer(EmbeddedData().text().text)["input_ids"][:23])
    expected = {}
    for name, x in inputs_of(loaded, ids).items():
        y = (x @ loaded.module.get_submodule(name).weight.T).numpy()
        expected[name] = relative(y, y + 0.2 * np.sin(10 * y))
    worst = max(expected, key=lambda name: expected[name])
    found = metric(result, "layer_difference")
    assert found.value == pytest.approx(expected[worst], rel=1e-4)
    assert f"{worst} differs by" in (found.note or "")
    assert "(prompt)" in (found.note or "")


def test_layer_with_a_rounded_input_gets_the_input_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A fake layer rounds its activation in a hook; the real one must get it unrounded."""
    # The stand-in rounds no input at all, which the probe of the backend would not let pass.
    monkeypatch.setattr(probe, "WRONG", math.inf)
    rule = LayerRule(match="*.mlp.down_proj", weight=FORMAT, input=FORMAT)
    recipe = QuantRecipe(name="inputs", rules={"linear": rule}, skip=())
    loaded = shared()
    loaded.restore()
    quantize(loaded, recipe)
    reference = TASK.reference(LocalEngine(loaded))
    rounded = fake_quantize(
        reference.calls["model.layers.0.mlp.down_proj"][0].activation[0], FORMAT
    )
    weight = loaded.module.model.layers[0].mlp.down_proj.weight.detach()
    made = reference.calls["model.layers.0.mlp.down_proj"][0].output[0]
    loaded.restore()
    assert torch.allclose(made, rounded @ weight.T, rtol=1e-5, atol=1e-5)
    assert not torch.equal(
        rounded, reference.calls["model.layers.0.mlp.down_proj"][0].activation[0]
    )
    quantize(loaded, replace(recipe, backend=Real()))
    result = TASK.run_beside(LocalEngine(loaded), reference, {})
    x = reference.calls["model.layers.0.mlp.down_proj"][0].activation[0].numpy()
    expected = relative(made.numpy(), x @ weight.numpy().T)
    assert metric(result, "layer_difference").n == 2, "the head and 12 other layers stay in float"
    assert (metric(result, "layer_difference").value or 0) >= expected * 0.999


def test_nothing_is_left_behind() -> None:
    task, loaded = replace(TASK, prompts="random"), TinyModel().load(CPU)
    state = torch.random.get_rng_state()
    reference = fake_reference(task, loaded)
    quantize(loaded, replace(RECIPE, backend=Real(change=noisy)))
    task.run_beside(LocalEngine(loaded), reference, {})
    loaded.restore()
    assert torch.equal(torch.random.get_rng_state(), state)
    fresh = TinyModel().load(CPU).module.state_dict()
    assert all(torch.equal(fresh[key], x) for key, x in loaded.module.state_dict().items())
    modules = list(loaded.module.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in modules)


def wrong_for_one_row(x: Tensor, y: Tensor) -> Tensor:
    """Be a kernel that is wrong only where decoding takes it."""
    return y if x.shape[-2] > 1 else noisy(x, y)


def test_path_that_only_decoding_takes_is_judged_by_itself() -> None:
    wrong, _ = beside(Real(change=wrong_for_one_row))
    found = metric(wrong, "layer_difference")
    assert "(decode)" in (found.note or "")
    assert found.value is not None
    assert metric(wrong, "within_tolerance").value == 0
    scores = [sample.scores for sample in wrong.samples]
    decoded = sum(s["difference_decode"] for s in scores)
    assert decoded == pytest.approx(sum(s["difference"] for s in scores)) != 0
    unseen, _ = beside(Real(change=wrong_for_one_row), replace(TASK, decode=0))
    assert metric(unseen, "layer_difference").value == 0


# The verdict


def test_difference_above_the_tolerance_is_a_verdict_and_a_warning() -> None:
    worst = metric(beside(Real(change=noisy))[0], "layer_difference").value
    assert worst is not None
    right, _ = beside(Real(change=noisy, tolerance={"float32": worst * 1.001}))
    assert metric(right, "within_tolerance").value == 1
    assert right.warnings == ()
    wrong, _ = beside(Real(change=noisy, tolerance={"float32": worst * 0.999}))
    verdict = metric(wrong, "within_tolerance")
    assert verdict.value == 0
    assert (verdict.note or "").startswith(f"above {worst * 0.999:.3g}, the backend's tolerance")
    (warning,) = wrong.warnings
    assert "real is not fake" in warning
    assert "mlp.down_proj differs by" in warning


def test_type_without_a_tolerance_has_no_verdict() -> None:
    result, _ = beside(Real(tolerance={"bfloat16": 1.0}))
    verdict = metric(result, "within_tolerance")
    assert verdict.value is None
    assert "no tolerance in float32" in (verdict.note or "")
    assert result.warnings == ()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_output_that_is_no_number_is_invalid_and_blamed_on_the_real_model(bad: float) -> None:
    def break_one(_x: Tensor, y: Tensor) -> Tensor:
        # The probe of the backend, which would end the run before, calls with a matrix.
        return y.index_fill(-1, torch.tensor([3]), bad) if y.dim() > 2 else y

    with pytest.raises(InvalidResult, match="from the real model"):
        beside(Real(change=break_one))


# Prompts


def test_random_prompts_need_no_text_and_are_seeded() -> None:
    task = replace(TASK, prompts="random", seed=3)
    assert task.data_facts() == {"name": "random tokens", "seed": 3}
    assert task.seeds == {"task.seed": 3}
    first, loaded = beside(Real(change=noisy), task)
    other, _ = beside(Real(change=noisy), replace(task, seed=4))
    again = fake_reference(task, loaded)
    quantize(loaded, replace(RECIPE, backend=Real(change=noisy)))
    assert first == task.run_beside(LocalEngine(loaded), again, Real().tolerance)
    assert first.info.data["token_ids_sha256"] != other.info.data["token_ids_sha256"]
    assert task.data_facts().items() <= first.info.data.items()
    assert "random-tokens|seed=3|L=24|windows=12" in first.info.protocol
    assert first.samples[0].id == "random/window/0"


def test_model_of_random_weights_wants_random_prompts() -> None:
    loaded = TinyModel().load(CPU)
    loaded.weights = "random"
    with pytest.raises(DataError, match=r"task\.prompts=random"):
        TASK.reference(LocalEngine(loaded))
    task = replace(TASK, prompts="random")
    reference = fake_reference(task, loaded)
    quantize(loaded, replace(RECIPE, backend=Real()))
    task.run_beside(LocalEngine(loaded), reference, {})


def test_prompts_that_are_too_long_or_too_many_are_refused(
    tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match=r"at most the 8192 tokens"):
        replace(TASK, prompts="random", window=8193).reference(LocalEngine(tiny))
    monkeypatch.setattr(parity, "MOST_KEPT_BYTES", 4 * 12 * 23 * 261 - 1)
    with pytest.raises(DataError, match=r"276 positions of 261 tokens; lower task\.window"):
        TASK.reference(LocalEngine(tiny))


def test_model_without_a_recipe_is_refused(tiny: LoadedModel) -> None:
    with pytest.raises(ModelError, match="a recipe must have changed tiny"):
        TASK.reference(LocalEngine(tiny))


def test_sizes_that_leave_nothing_to_compare_are_refused() -> None:
    for name, size in (("window", 1), ("limit_windows", 0), ("decode", -1), ("decode", 23)):
        with pytest.raises(ValueError, match=f"{name} must be >="):
            replace(TASK, **{name: size})


# Through a run


@pytest.fixture(scope="module")
def _no_model_held() -> None:
    cache._held.clear()


@pytest.fixture
def make_spec(tmp_path: Path, _no_model_held: None) -> Callable[..., RunSpec]:
    def make(backend: Any) -> RunSpec:
        config.register()
        overrides = ["model=tiny", "data=embedded", "device=cpu", "task=parity", "task.window=24"]
        with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
            resolved = config.resolve(compose("config", overrides=[*overrides, "+quant=int4_row"]))
        return RunSpec(
            sinks=Sinks(),
            model=TinyModel(),
            recipe=replace(config.build(resolved["quant"], "quant"), backend=backend),
            task=config.build(resolved["task"], "task"),
            engine=Local(),
            device=CPU,
            store=ResultStore(root=tmp_path / "results"),
            force=False,
            resolved=resolved,
            command="python -m harness",
        )

    return make


def test_run_measures_fake_and_then_real_and_says_so(make_spec: Callable[..., RunSpec]) -> None:
    spec = make_spec(Real(change=noisy, tolerance={"float32": 1e-5}))
    record = read(run(spec).path)
    assert record.status is Status.OK
    assert record.quant is not None
    assert (record.quant.kind, record.quant.backend) == ("real", "stand_in")
    assert [metric.name for metric in record.metrics] == NAMES
    assert any("real is not fake" in warning for warning in record.warnings)
    samples = read_samples(*spec.store.load()[0])
    assert len(samples) == 10
    assert samples["difference"].sum() / 230 == pytest.approx(record.metrics[0].value)


def test_run_of_an_equal_backend_differs_by_nothing(make_spec: Callable[..., RunSpec]) -> None:
    record = read(run(make_spec(Real())).path)
    found = {metric.name: metric.value for metric in record.metrics}
    assert found["logprob_difference_max"] == found["kl"] == 0
    assert found["within_tolerance"] == 1


def test_fake_recipe_has_nothing_to_be_beside(make_spec: Callable[..., RunSpec]) -> None:
    spec = make_spec(FakeBackend())
    with pytest.raises(ConfigError, match="recipe of a real backend"):
        RunSpec.build(spec.resolved)
