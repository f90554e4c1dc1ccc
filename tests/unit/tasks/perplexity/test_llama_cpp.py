"""llama.cpp's half windows against a plain loop over its definition."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tokenizers import processors

from harness.data.embedded import EmbeddedData
from harness.data.source import Text
from harness.engines.local.engine import LocalEngine
from harness.errors import DataError
from harness.models.loaded import LoadedModel
from harness.models.sources.tiny import TinyModel
from harness.tasks.base import TaskResult
from harness.tasks.perplexity.llama_cpp import HalfWindows
from harness.tasks.perplexity.perplexity import Perplexity


@pytest.fixture
def with_bos() -> LoadedModel:
    """A tiny model whose tokenizer begins a text with a BOS."""
    loaded = TinyModel().load(torch.device("cpu"))
    loaded.tokenizer.add_special_tokens({"bos_token": "<eos>"})
    start = loaded.tokenizer.bos_token_id
    loaded.tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<eos> $A", special_tokens=[("<eos>", start)]
    )
    return loaded


def run(loaded: LoadedModel, content: str, window: int, file: str | None = None) -> TaskResult:
    text = Text(name="fixed", text=content, sha256=content, num_rows=1, file=file)
    data = SimpleNamespace(text=lambda: text)
    return Perplexity(data=data, segmentation=HalfWindows(), window=window).run(LocalEngine(loaded))


def by_definition(
    loaded: LoadedModel, content: str, n_ctx: int, bos: int | None
) -> tuple[float, float, int]:
    """Return PPL, its +/- and the count, one position at a time in float64."""
    tokens = list(loaded.tokenizer(content)["input_ids"])
    nll = nll2 = 0.0
    count = 0
    first = n_ctx // 2
    for chunk in range(len(tokens) // n_ctx):
        part = tokens[chunk * n_ctx : (chunk + 1) * n_ctx]
        if bos is not None:
            part[0] = bos
        with torch.no_grad():
            logits = loaded.module(torch.tensor([part])).logits[0].double()
        for position in range(first, n_ctx - 1):
            total = torch.logsumexp(logits[position], 0)
            value = float(total - logits[position, part[position + 1]])
            nll, nll2, count = nll + value, nll2 + value**2, count + 1
    mean = nll / count
    error = math.sqrt((nll2 / count - mean**2) / (count - 1))
    return math.exp(mean), math.exp(mean) * error, count


@pytest.mark.parametrize("n_ctx", [3, 4, 65, 128])
@pytest.mark.parametrize("bos", [False, True])
def test_figure_and_error_equal_the_definition(
    tiny: LoadedModel, with_bos: LoadedModel, n_ctx: int, bos: bool
) -> None:
    loaded = with_bos if bos else tiny
    content = EmbeddedData().text().text[:600]
    result = run(loaded, content, n_ctx)
    start = with_bos.tokenizer.bos_token_id if bos else None
    value, error, count = by_definition(loaded, content, n_ctx, start)
    found = {metric.name: metric for metric in result.metrics}
    assert found["perplexity"].value == pytest.approx(value, rel=1e-4)
    assert found["perplexity"].n == count
    assert found["perplexity/llama_cpp_error"].value == pytest.approx(error, rel=1e-4)
    assert f"bos={'every-window' if bos else 'none'}" in result.info.protocol


def test_255_of_512_tokens_are_scored(tiny: LoadedModel) -> None:
    result = run(tiny, "x" * 1024, 512)
    assert [sample.scores["num_tokens"] for sample in result.samples] == [255, 255]


def test_file_is_scored_and_not_the_rows(tiny: LoadedModel) -> None:
    rows, file = "ab\n\ncd\n\n" * 9, "ab\n \ncd\n \n" * 9
    found = run(tiny, rows, 8, file)
    direct = run(tiny, file, 8)
    assert found.metrics == direct.metrics
    assert found.info.data["file_sha256"] == direct.info.data["file_sha256"]
    assert found.metrics != run(tiny, rows, 8).metrics


def test_bytes_are_those_of_the_second_halves(tiny: LoadedModel) -> None:
    result = run(tiny, "abcdefghijklmnop", 8)
    assert result.info.data["scored_bytes"] == len("fgh" + "nop")
    nll = sum(sample.scores["nll"] for sample in result.samples)
    bits = next(metric.value for metric in result.metrics if metric.name == "bits_per_byte")
    assert bits == pytest.approx(nll / 6 / math.log(2))


def test_text_shorter_than_two_windows_is_refused(tiny: LoadedModel) -> None:
    with pytest.raises(DataError, match="must hold two windows of 8 tokens"):
        run(tiny, "x" * 15, 8)


def test_one_token_has_no_error() -> None:
    assert HalfWindows().further([np.ones(1)], [np.zeros(1, np.int64)]) == ()
