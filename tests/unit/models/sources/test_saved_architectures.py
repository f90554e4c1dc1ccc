"""Models of many architectures, loaded from a folder, against plain loops over transformers."""

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from architectures import ARCHITECTURES, save
from rounding import UNCALLED, RoundedInputs, matrices, round_weights
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForMultimodalLM, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from harness.backends.layer import LayerRule
from harness.backends.scaled_mm.backend import ScaledMMBackend
from harness.data.embedded import EmbeddedData
from harness.engines.local.engine import LocalEngine
from harness.errors import UnsupportedRecipe
from harness.formats.integer import Integer
from harness.models.loaded import LoadedModel
from harness.models.sources.pretrained import LocalModel
from harness.models.sources.tiny import byte_tokenizer
from harness.quant.granularity import Granularity
from harness.quant.schemes.block_scaled import BlockScaled
from harness.recipe import QuantRecipe, quantize
from harness.tasks.perplexity.perplexity import Perplexity

CPU = torch.device("cpu")
WINDOW = 128
TASK = Perplexity(data=EmbeddedData(), window=WINDOW, limit_windows=2)
ROWS = BlockScaled(element=Integer(bits=8), granularity=Granularity(block=(1, -1)))
INT8 = QuantRecipe(name="int8_row", rules={"linear": LayerRule(match="*", weight=ROWS)})
W8A8 = QuantRecipe(name="w8a8", rules={"linear": LayerRule(match="*", weight=ROWS, input=ROWS)})
REAL = replace(INT8, name="int8_row_real", backend=ScaledMMBackend())
STACK = "a layer must be linear to be multiplied in low precision"

each = pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if architecture.quick else pytest.mark.slow)
        for name, architecture in ARCHITECTURES.items()
    ],
)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture
def folder(models: Path, name: str) -> Path:
    """The folder of an architecture, saved once."""
    path = models / name
    if not path.exists():
        save(name, path)
    return path


@pytest.fixture(scope="session")
def held() -> dict[str, LoadedModel]:
    return {}


@pytest.fixture
def loaded(held: dict[str, LoadedModel], folder: Path, name: str) -> Iterator[LoadedModel]:
    """The model of an architecture, loaded once and in float again after each test."""
    if name not in held:
        held[name] = LocalModel(path=str(folder), name=name, dtype="float32").load(CPU)
    yield held[name]
    held[name].restore()


def by_transformers(folder: Path, name: str) -> PreTrainedModel:
    """Load a folder without anything of this project."""
    wrapped = ARCHITECTURES[name].is_wrapper
    auto = AutoModelForMultimodalLM if wrapped else AutoModelForCausalLM
    module: PreTrainedModel = auto.from_pretrained(folder, dtype=torch.float32)
    return module.eval().requires_grad_(False)


@lru_cache
def token_ids() -> list[int]:
    ids: list[int] = byte_tokenizer()(EmbeddedData().text().text, verbose=False)["input_ids"]
    return ids


@torch.inference_mode()
def plain_perplexity(module: PreTrainedModel) -> float:
    """Score the first windows of the text, a token at a time, in float64."""
    ids = token_ids()
    nll = []
    for start in (0, WINDOW):
        window = torch.tensor(ids[start : start + WINDOW])
        log_p = module(window[None], use_cache=False).logits[0].double().log_softmax(-1)
        nll += [-log_p[place, window[place + 1]] for place in range(WINDOW - 1)]
    return float(torch.stack(nll).mean().exp())


def perplexity(loaded: LoadedModel) -> float:
    metrics = {
        metric.name: metric.value
        for metric in TASK.run(LocalEngine(loaded, batch_tokens=WINDOW)).metrics
    }
    value = metrics["perplexity"]
    assert value is not None
    return value


@each
def test_perplexity_is_that_of_a_plain_loop(folder: Path, loaded: LoadedModel, name: str) -> None:
    # Two passes in float32 whose sums run in another order: 1e-7 a logit; a mistake of kind shifts
    # it by 1e-4 and more.
    expected = plain_perplexity(by_transformers(folder, name))
    assert perplexity(loaded) == pytest.approx(expected, rel=1e-6)


@each
def test_int8_weights_are_those_of_an_independent_rounding(
    folder: Path, loaded: LoadedModel, name: str
) -> None:
    module = by_transformers(folder, name)
    expected = round_weights(module, name)
    report = quantize(loaded, INT8).report
    assert {layer.name for layer in report.layers} == {
        layer_name(full, module) for full in expected
    }
    # The same division and rounding in float32; then as above.
    assert perplexity(loaded) == pytest.approx(plain_perplexity(module), rel=1e-6)


@each
def test_every_matrix_is_quantized_or_skipped_by_name(loaded: LoadedModel, name: str) -> None:
    module = loaded.module
    every = {full for full, parameter in module.named_parameters() if parameter.dim() >= 2}
    report = quantize(loaded, INT8).report
    named = [item.name for item in (*report.layers, *report.skipped)]
    assert len(named) == len(set(named))
    assert [full for full in every if not {full, layer_name(full, module)} & set(named)] == []
    assert all(item.reason for item in report.skipped)


@each
def test_real_int8_is_right_or_refused_by_name(
    folder: Path, loaded: LoadedModel, name: str
) -> None:
    module = by_transformers(folder, name)
    if has_stack(module, name):
        with pytest.raises(UnsupportedRecipe, match=STACK):
            quantize(loaded, REAL)
        return
    round_weights(module, name, without=UNCALLED.get(name, ()))
    report = quantize(loaded, REAL).report
    assert report.kind == "real"
    # Scales are applied after the sum of K <= 256 products instead of before it: sqrt(K) 2^-24 =
    # 1e-6 a product.
    assert perplexity(loaded) == pytest.approx(plain_perplexity(module), rel=1e-5)


@each
def test_rounded_inputs_are_right(folder: Path, loaded: LoadedModel, name: str) -> None:
    module = by_transformers(folder, name)
    without = UNCALLED.get(name, ())
    names = round_weights(module, name, without)
    weights = [parameter for full, parameter in module.named_parameters() if full in names]
    with RoundedInputs(weights):
        expected = plain_perplexity(module)
    quantize(loaded, W8A8)
    # An input that lies on the border of two codes may fall to the other side; a layer without
    # rounding shifts it by 1e-3.
    assert perplexity(loaded) == pytest.approx(expected, rel=1e-4)


def layer_name(full: str, module: PreTrainedModel) -> str:
    """Return what reports call a parameter: linear layers and the embedding by their module."""
    path, _, attribute = full.rpartition(".")
    owner = module.get_submodule(path)
    is_layer = isinstance(owner, nn.Linear | Conv1D) or owner is module.get_input_embeddings()
    return path if attribute == "weight" and is_layer else full


def has_stack(module: PreTrainedModel, name: str) -> bool:
    return any(
        "." in full and layer_name(full, module) == full for full, *_ in matrices(module, name)
    )
