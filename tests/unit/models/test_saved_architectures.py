"""Models of many architectures, loaded from a folder, against plain loops over what transformers loads from the same folder."""

from pathlib import Path

import pytest
import torch
from architectures import ARCHITECTURES, save
from transformers import AutoModelForCausalLM, AutoModelForMultimodalLM, PreTrainedModel

from harness.data.embedded import EmbeddedData
from harness.models.hub import LocalModel
from harness.models.source import LoadedModel
from harness.models.tiny import byte_tokenizer
from harness.tasks.perplexity import Perplexity

CPU = torch.device("cpu")
WINDOW = 128
TASK = Perplexity(data=EmbeddedData(), window=WINDOW, limit_windows=2, batch_tokens=WINDOW)

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


@pytest.fixture
def loaded(folder: Path, name: str) -> LoadedModel:
    return LocalModel(path=str(folder), name=name, dtype="float32").load(CPU)


def by_transformers(folder: Path, name: str) -> PreTrainedModel:
    """Load a folder without anything of this project."""
    wrapped = "text_config" in ARCHITECTURES[name].options
    auto = AutoModelForMultimodalLM if wrapped else AutoModelForCausalLM
    module: PreTrainedModel = auto.from_pretrained(folder, dtype=torch.float32)
    return module.eval()


@torch.inference_mode()
def plain_perplexity(module: PreTrainedModel) -> float:
    """Score the first windows of the text, a token at a time, in float64."""
    ids = byte_tokenizer()(EmbeddedData().text().text, verbose=False)["input_ids"]
    nll = []
    for start in (0, WINDOW):
        window = torch.tensor(ids[start : start + WINDOW])
        log_p = module(window[None], use_cache=False).logits[0].double().log_softmax(-1)
        nll += [-log_p[place, window[place + 1]] for place in range(WINDOW - 1)]
    return float(torch.stack(nll).mean().exp())


def perplexity(loaded: LoadedModel) -> float:
    metrics = {metric.name: metric.value for metric in TASK.run(loaded).metrics}
    value = metrics["perplexity"]
    assert value is not None
    return value


@each
def test_perplexity_is_that_of_a_plain_loop(folder: Path, loaded: LoadedModel, name: str) -> None:
    # Two passes in float32 whose sums run in another order: 1e-7 a logit; a mistake of kind shifts it by 1e-3 and more.
    expected = plain_perplexity(by_transformers(folder, name))
    assert perplexity(loaded) == pytest.approx(expected, rel=1e-6)
