"""Errors of rounded matmuls against closed forms, and against whole matmuls in float64."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats as scipy_stats
from torch import Tensor

from harness.errors import InvalidResult
from harness.formats.base import NumberFormat
from harness.formats.integer import Integer
from harness.formats.minifloat import Minifloat
from harness.formats.native import Native
from harness.quant.granularity import Granularity
from harness.quant.primitives import fake_quantize
from harness.quant.schemes.block_scaled import BlockScaled
from harness.quant.schemes.unscaled import Unscaled
from harness.quant.tensor import Scales, TensorFormat
from harness.results.record import Metric, Unit
from harness.tasks.base import ModelFreeTask, Task, TaskResult
from harness.tasks.matmul.matmul import MatmulError
from harness.tasks.matmul.operands import Case, Inputs, draw

CPU = torch.device("cpu")
INT8 = Integer(bits=8)
FP8 = Minifloat(exponent_bits=4, mantissa_bits=3, specials="nan")
TENSOR, ROW = Granularity(block=(-1, -1)), Granularity(block=(1, -1))
INT8_TENSOR = BlockScaled(element=INT8, granularity=TENSOR)
INT8_ROW = BlockScaled(element=INT8, granularity=ROW)
FP8_TENSOR = BlockScaled(element=FP8, granularity=TENSOR)
IDENTITY = Unscaled(element=Native(name="fp32"))
OPERANDS = ("both", "weights", "inputs")


def run(formats: Mapping[str, TensorFormat], **options: Any) -> TaskResult:
    given = {"inputs": ("normal",), "draws": 2} | options
    return MatmulError(formats=formats, **given).run_on(CPU)


def metrics(result: TaskResult) -> dict[str, Metric]:
    return {metric.name: metric for metric in result.metrics}


def value(result: TaskResult, name: str) -> float:
    found = metrics(result)[name].value
    assert found is not None
    return found


def uniform_error(x: Tensor, per_row: bool) -> float:
    """RMS error over RMS of `x` for steps of amax / 127: an error is uniform in +-step / 2."""
    amax = x.abs().amax(dim=1 if per_row else (0, 1)).double()
    return float(
        (amax / 127).square().mean().sqrt() / math.sqrt(12) / x.double().square().mean().sqrt()
    )


def float_error(amax: float) -> float:
    """RMS error of N(0, 1) in E4M3 scaled by amax / 448.

    In each binade [b, 2b) the step is b / 8; below 2^-6 it is 2^-9.
    """
    scale = amax / 448
    binades = [(0.0, 2.0**-6, 2.0**-9)] + [
        (2.0**e, 2.0 ** (e + 1), 2.0 ** (e - 3)) for e in range(-6, 9)
    ]
    squares = [
        2 * (scipy_stats.norm.cdf(high * scale) - scipy_stats.norm.cdf(low * scale)) * step**2 / 12
        for low, high, step in binades
    ]
    return scale * math.sqrt(sum(squares))


# The numbers


@pytest.mark.parametrize("kind", ["normal", "heavy_tailed", "outlier_channels"])
@pytest.mark.parametrize("fmt", [INT8_ROW, FP8_TENSOR], ids=lambda fmt: fmt.name)
def test_errors_are_those_of_whole_products_in_float64(kind: Inputs, fmt: BlockScaled) -> None:
    result = run({"f": fmt}, shapes=((5, 48),), inputs=(kind,), draws=1, seed=7)
    x, w = draw(Case(kind, 5, 48), 7, 0)
    qx, qw = fake_quantize(x, fmt).double(), fake_quantize(w, fmt).double()
    x, w = x.double(), w.double()
    y = x @ w.T
    for operands, product in {"both": qx @ qw.T, "weights": x @ qw.T, "inputs": qx @ w.T}.items():
        error = product - y
        relative = float(error.norm() / y.norm())
        largest = float(error.abs().max() / y.square().mean().sqrt())
        case = f"{kind}/5x48/f"
        # float32 products of 48 terms: a few parts in 10^6 of the error.
        assert value(result, f"rel_error/{operands}/{case}") == pytest.approx(relative, rel=1e-5)
        assert value(result, f"max_error/{operands}/{case}") == pytest.approx(largest, rel=1e-4)
        decibels = 20 * math.log10(1 / relative)
        assert value(result, f"sqnr/{operands}/{case}") == pytest.approx(decibels, abs=1e-3)
    element = float((qx - x).abs().mean() / x.abs().mean())
    assert value(result, f"element_error/{case}") == pytest.approx(element, rel=1e-5)


@pytest.mark.parametrize(("fmt", "per_row"), [(INT8_TENSOR, False), (INT8_ROW, True)])
def test_int8_error_is_that_of_equal_steps(fmt: BlockScaled, per_row: bool) -> None:
    result = run({"f": fmt}, shapes=((64, 256),), draws=1)
    x, w = draw(Case("normal", 64, 256), 42, 0)
    of_inputs, of_weights = uniform_error(x, per_row), uniform_error(w, per_row)
    # 64 x 256 outputs, whose errors share operands: about 1 % of scatter.
    for operands, expected in {
        "inputs": of_inputs,
        "weights": of_weights,
        "both": math.hypot(of_inputs, of_weights),
    }.items():
        measured = value(result, f"rel_error/{operands}/normal/64x256/f")
        assert measured == pytest.approx(expected, rel=0.03)


def test_fp8_error_is_that_of_steps_that_grow_with_the_number() -> None:
    result = run({"f": FP8_TENSOR}, shapes=((64, 256),), draws=1)
    x, w = draw(Case("normal", 64, 256), 42, 0)
    of_inputs, of_weights = float_error(float(x.abs().max())), float_error(float(w.abs().max()))
    assert of_inputs == pytest.approx(0.0265, abs=0.0005)
    for operands, expected in {
        "inputs": of_inputs,
        "weights": of_weights,
        "both": math.hypot(of_inputs, of_weights),
    }.items():
        measured = value(result, f"rel_error/{operands}/normal/64x256/f")
        assert measured == pytest.approx(expected, rel=0.03)


def test_mean_element_error_of_int8_is_a_quarter_step_over_the_mean_magnitude() -> None:
    result = run({"f": INT8_TENSOR}, shapes=((200, 128),), draws=1)
    x, _ = draw(Case("normal", 200, 128), 42, 0)
    expected = float(x.abs().max()) / 127 / 4 / math.sqrt(2 / math.pi)
    assert value(result, "element_error/normal/200x128/f") == pytest.approx(expected, rel=0.02)


def test_exact_format_has_no_error_and_says_so_where_a_logarithm_is_asked_for() -> None:
    formats = {"fp32": IDENTITY, "int8": INT8_ROW}
    pairs = (("int8", "fp32"), ("fp32", "int8"))
    found = metrics(run(formats, shapes=((3, 32),), draws=10, ratios=pairs))
    for operands in OPERANDS:
        assert found[f"rel_error/{operands}/normal/3x32/fp32"].value == 0.0
        assert found[f"max_error/{operands}/normal/3x32/fp32"].value == 0.0
        for name in (
            f"sqnr/{operands}/normal/3x32/fp32",
            *(f"ratio/rel_error/{operands}/normal/3x32/{a}/{b}" for a, b in pairs),
        ):
            assert found[name].value is None
            assert "exactly 0" in str(found[name].note)
    assert found["element_error/normal/3x32/fp32"].value == 0.0


def test_outlier_channels_hurt_int8_rows_and_leave_fp8_as_it_was() -> None:
    formats = {"int8": INT8_ROW, "fp8": FP8_TENSOR}
    result = run(formats, shapes=((32, 256),), inputs=("normal", "outlier_channels"))

    def growth(name: str, measure: str) -> float:
        outlier = value(result, f"{measure}/outlier_channels/32x256/{name}")
        return outlier / value(result, f"{measure}/normal/32x256/{name}")

    assert growth("int8", "element_error") > 5
    assert growth("fp8", "element_error") < 2


# Means, intervals, ratios


def test_interval_is_students_over_the_draws() -> None:
    result = run({"f": INT8_ROW}, shapes=((3, 32),), draws=12)
    found = metrics(result)
    errors = [sample.scores["rel_error/both/f"] for sample in result.samples]
    assert len(errors) == len(set(errors)) == 12
    expected = scipy_stats.ttest_1samp(errors, 0.0).confidence_interval(0.95)
    metric = found["rel_error/both/normal/3x32/f"]
    assert metric.value == pytest.approx(np.mean(errors))
    assert metric.ci95 == pytest.approx(tuple(expected))
    assert (metric.n, metric.n_of, metric.unit) == (12, "draw", Unit.ONE)
    decibels = -20 * np.log10(errors)
    expected = scipy_stats.ttest_1samp(decibels, 0.0).confidence_interval(0.95)
    metric = found["sqnr/both/normal/3x32/f"]
    assert metric.ci95 == pytest.approx(tuple(expected))
    assert (metric.unit, metric.higher_is_better) == (Unit.DB, True)


def test_ratio_is_paired_by_draw_and_its_inverse_is_that_of_the_other_order() -> None:
    pairs = (("a", "b"), ("b", "a"))
    result = run({"a": FP8_TENSOR, "b": INT8_ROW}, shapes=((3, 32),), draws=12, ratios=pairs)
    found = metrics(result)
    for measure in ("rel_error/both", "rel_error/weights", "rel_error/inputs", "element_error"):
        ratios = [s.scores[f"{measure}/a"] / s.scores[f"{measure}/b"] for s in result.samples]
        there = found[f"ratio/{measure}/normal/3x32/a/b"]
        back = found[f"ratio/{measure}/normal/3x32/b/a"]
        assert there.value == pytest.approx(scipy_stats.gmean(ratios))
        expected = scipy_stats.ttest_1samp(np.log(ratios), 0.0).confidence_interval(0.95)
        assert there.ci95 == pytest.approx(tuple(np.exp(expected)))
        assert back.value is not None
        assert back.value * there.value == pytest.approx(1)


def test_few_draws_carry_no_interval_and_say_why() -> None:
    result = run({"f": INT8_ROW}, shapes=((3, 32),), draws=4)
    assert all(metric.ci95 is None for metric in result.metrics)
    assert all("fewer than 5 draws" in str(metric.note) for metric in result.metrics)


# What is drawn


def test_draws_differ_by_case_seed_and_index_and_repeat_otherwise() -> None:
    def first(
        kind: Inputs = "normal", m: int = 4, k: int = 32, seed: int = 1, index: int = 0
    ) -> float:
        x, w = draw(Case(kind, m, k), seed, index)
        assert (x.shape, w.shape) == ((m, k), (k, k))
        assert x.dtype == w.dtype == torch.float32
        return float(x.abs().sum() + w.abs().sum())

    others = [first(m=5), first(k=33), first(seed=2), first(index=1), first("heavy_tailed")]
    assert len({first(), *others}) == 6
    assert first() == first()


@pytest.mark.parametrize(
    ("kind", "distribution"),
    [("normal", scipy_stats.norm()), ("heavy_tailed", scipy_stats.t(3))],
)
def test_operands_have_the_distribution_they_are_named_for(kind: Inputs, distribution: Any) -> None:
    for operand in draw(Case(kind, 128, 128), 3, 0):
        # At a fixed seed the outcome is fixed; 1 % would reject one seed in a hundred.
        assert scipy_stats.kstest(operand.flatten().numpy(), distribution.cdf).pvalue > 0.01


@pytest.mark.parametrize(("k", "count"), [(512, 4), (100, 1)])
def test_outliers_are_whole_channels_of_x_alone(k: int, count: int) -> None:
    x, w = draw(Case("outlier_channels", 400, k), 0, 0)
    spread = x.std(dim=0)
    assert int((spread > 5).sum()) == count
    # 400 numbers give a standard deviation to about 4 %.
    assert spread[spread > 5].min() > 30 * 0.85
    assert spread.max() < 100 * 1.15
    assert w.std(dim=0).max() < 1.5


def test_scales_come_from_all_rows_though_only_some_are_multiplied() -> None:
    x, w = draw(Case("normal", 40, 32), 42, 0)
    result = run({"f": INT8_TENSOR}, shapes=((40, 32),), draws=1, max_rows=8)
    x64, w64 = x.double(), w.double()
    error = (fake_quantize(x, INT8_TENSOR).double()[:8] - x64[:8]) @ w64.T
    expected = float(error.norm() / (x64[:8] @ w64.T).norm())
    assert value(result, "rel_error/inputs/normal/40x32/f") == pytest.approx(expected, rel=1e-5)
    assert "rows=first-8" in result.info.protocol


# The task


def test_same_seed_repeats_every_number_and_another_does_not() -> None:
    runs = [run({"f": INT8_ROW}, shapes=((3, 32),), seed=seed) for seed in (5, 5, 6)]
    assert runs[0] == runs[1]
    assert runs[0].metrics != runs[2].metrics
    assert runs[0].info.data["probe_sha256"] != runs[2].info.data["probe_sha256"]


def test_it_is_a_task_that_needs_no_model() -> None:
    task = MatmulError(formats={"f": INT8_ROW}, shapes=((2, 16),), draws=1)
    assert isinstance(task, ModelFreeTask)
    assert not isinstance(task, Task)
    result = task.run_on(CPU)
    assert not result.info.needs_model
    assert result.metrics[0].name == "rel_error/both/normal/2x16/f"
    ids = [sample.id for sample in result.samples]
    assert ids == ["normal/2x16/0", "heavy_tailed/2x16/0", "outlier_channels/2x16/0"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Broken:
    """A format that makes NaN."""

    name: str = "broken"
    element: NumberFormat = INT8
    granularity: Granularity = TENSOR

    def fit(self, x: Tensor) -> Scales:
        return Scales()

    def to_grid(
        self, x: Tensor, scales: Scales, generator: torch.Generator | None = None
    ) -> Tensor:
        return x * math.nan


def test_error_that_is_not_finite_is_refused() -> None:
    with pytest.raises(InvalidResult, match=r"becomes nan.* \(normal/16x512\)"):
        run({"bad": Broken()})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"formats": {}}, "must not be empty"),
        ({"shapes": ()}, "must not be empty"),
        ({"shapes": ((0, 4),)}, "shapes must hold sizes >= 1"),
        ({"draws": 0}, "draws must be >= 1"),
        ({"seed": -1}, "seed must be >= 0"),
        ({"max_rows": 0}, "max_rows must be >= 1 or null"),
        ({"ratios": (("f", "g"),)}, "got g"),
    ],
)
def test_what_cannot_be_measured_is_refused(options: dict[str, Any], message: str) -> None:
    task = MatmulError(formats={"f": INT8_ROW})
    with pytest.raises(ValueError, match=message):
        replace(task, **options)
