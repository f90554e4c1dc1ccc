"""SmolLM2-135M exported and read back by transformers: the log-probabilities of the recipe in memory.

The tolerances are those of docs/checkpoints.md. Where readers dequantize with the scales of the file, weights are bit for
bit the recipe's and so is every log-probability.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from transformers import AutoModelForCausalLM, CompressedTensorsConfig, PreTrainedModel

from harness import config
from harness.export.checkpoint import export
from harness.export.layouts.compressed_tensors import CompressedTensors
from harness.export.layouts.gptq import Gptq
from harness.formats.integer import Integer
from harness.models import cache
from harness.models.loaded import LoadedModel
from harness.models.sources.embedded import EmbeddedModel
from harness.models.targets.targets import find_targets
from harness.quant.granularity import Granularity
from harness.quant.scale import FloatScale
from harness.quant.schemes.block_scaled import BlockScaled
from harness.recipe import QuantRecipe, quantize

pytest.importorskip("compressed_tensors")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:You passed .quantization_config.:UserWarning"),
]

TEXT = (
    "The tower is 324 metres tall, about the same height as an 81-storey building, and the "
    "tallest structure in Paris. Its base is square, measuring 125 metres on each side. During "
    "its construction it surpassed the Washington Monument."
)
FACTS = {
    "command": "python -m harness.export",
    "config": {},
    "config_hash": "0" * 64,
    "packages": {"quant-harness": "0"},
}
BF16_STEP = 2.0**-7
NOISE = 0.06
"""Mean difference of log-probabilities [nat]: twice what rounding weights to bfloat16 in another order moved them."""


@pytest.fixture
def bf16() -> Iterator[LoadedModel]:
    loaded = cache.load(EmbeddedModel(), torch.device("cpu"))
    yield loaded
    loaded.restore()


def recipe(name: str) -> QuantRecipe:
    config.register()
    with initialize_config_dir(str(config.CONF), version_base="1.3"):
        node = config.resolve(compose("config", ["data=embedded", f"+quant={name}"]))["quant"]
    found: QuantRecipe = config.build(node, "quant")
    return found


@torch.no_grad()
def log_probabilities(module: PreTrainedModel, loaded: LoadedModel) -> torch.Tensor:
    ids = torch.tensor([loaded.tokenizer(TEXT)["input_ids"]])
    found = module(ids, use_cache=False).logits.float().log_softmax(-1)
    return found[0, :-1].gather(-1, ids[0, 1:, None]).squeeze(-1)


def read(folder: Path, dtype: torch.dtype, *, dequantize: bool) -> PreTrainedModel:
    options = (
        {"quantization_config": CompressedTensorsConfig(dequantize=True)} if dequantize else {}
    )
    found = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **options)
    return found.train(mode=False)


@pytest.mark.parametrize("name", ["int4_g64", "int8_row", "fp8_row", "nvfp4"])
def test_weights_alone_are_read_back(name: str, bf16: LoadedModel, tmp_path: Path) -> None:
    chosen, out = recipe(name), tmp_path / "out"
    export(bf16, chosen, CompressedTensors(), out, shard_bytes=50_000_000, facts=FACTS)
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 1
    quantize(bf16, chosen)
    ours = {target.name: target.weight.detach() for target in find_targets(bf16.module)}
    expected = log_probabilities(bf16.module, bf16)
    exact = name != "nvfp4"
    found = read(out, torch.bfloat16, dequantize=True)
    for target in find_targets(found):
        torch.testing.assert_close(
            target.weight.detach(), ours[target.name], rtol=0 if exact else BF16_STEP, atol=0
        )
    difference = (log_probabilities(found, bf16) - expected).abs()
    assert float(difference.max()) == 0 if exact else float(difference.mean()) < NOISE
    compressed = read(out, torch.bfloat16, dequantize=False)
    difference = (log_probabilities(compressed, bf16) - expected).abs()
    assert float(difference.mean()) < NOISE


def test_rounded_inputs_are_those_of_the_recipe_with_the_scales_of_the_library(
    tmp_path: Path,
) -> None:
    loaded = EmbeddedModel(dtype="float32").load(torch.device("cpu"))
    chosen, out = recipe("w8a8"), tmp_path / "out"
    export(loaded, chosen, CompressedTensors(), out, shard_bytes=10**9, facts=FACTS)
    found = log_probabilities(read(out, torch.float32, dequantize=False), loaded)
    theirs = BlockScaled(
        element=Integer(bits=8, narrow=False),
        granularity=Granularity(block=(1, -1)),
        scale=FloatScale(reach="half_span", lowest=0.0, of_zeros=2.0**-23),
    )
    quantize(
        loaded, replace(chosen, rules={"linear": replace(chosen.rules["linear"], input=theirs)})
    )
    torch.testing.assert_close(log_probabilities(loaded.module, loaded), found, rtol=0, atol=1e-4)


def test_gptq_rounds_scales_to_float16_and_nothing_else(bf16: LoadedModel, tmp_path: Path) -> None:
    found = export(
        bf16, recipe("int4_g64"), Gptq(), tmp_path / "out", shard_bytes=10**9, facts=FACTS
    )
    assert 0 < found.scale_error <= 2**-11
