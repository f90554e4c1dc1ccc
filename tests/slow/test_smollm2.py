"""The real model: perplexity against a plain loop over `model(ids).logits`, MMLU against lm-eval.

Nothing of `harness` but the file of the model is used on the other side: weights are quantized block by block with
numpy, and the loop scores one token at a time in float64.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from gguf import GGUFReader, dequantize
from hydra import compose, initialize_config_dir
from repository import ROOT
from transformers import AutoModelForCausalLM, AutoTokenizer

from harness import config
from harness.engines.local.engine import LocalEngine
from harness.models import cache
from harness.models.checkpoints.folder import sha256_file
from harness.models.sources.cache_folder import BFLOAT16_COPY
from harness.models.sources.embedded import EmbeddedModel, gguf_file
from harness.models.sources.gguf import GgufModel
from harness.models.sources.gguf_copy import converted_folder
from harness.recipe import quantize

pytestmark = pytest.mark.slow

WINDOW, NUM_WINDOWS = 1024, 3
RECIPES = {
    "none": [],
    "int8_row": ["+quant=int8_row"],
    "int8_tensor": ["+quant=int8_tensor"],
    "fp8_row": ["+quant=fp8_row"],
    "int8_g64": ["+quant=int8_group", "quant.group_size=64"],
}


@pytest.fixture(scope="module")
def folder() -> Path:
    file = gguf_file()
    return converted_folder(file, sha256_file(file), BFLOAT16_COPY)


@pytest.fixture(scope="module")
def ids(folder: Path) -> torch.Tensor:
    import os

    root = os.environ.get("HARNESS_DATA")
    if not root:
        pytest.skip("needs HARNESS_DATA")
    file = next(Path(root, "Salesforce/wikitext/wikitext-2-raw-v1").glob("test-*.parquet"))
    text = "\n\n".join(pq.read_table(file)["text"].to_pylist())
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return torch.tensor(tokenizer(text, verbose=False)["input_ids"][: NUM_WINDOWS * WINDOW])


def fake_quantize(weight: np.ndarray, element: str, block: int) -> np.ndarray:
    """Block by block along rows: scale amax / max, true division, nearest even."""
    rounded = np.empty_like(weight)
    for start in range(0, weight.shape[1], block):
        part = weight[:, start : start + block]
        largest = np.abs(part).max(axis=1, keepdims=True)
        if element == "int8":
            scale = np.maximum(largest / np.float32(127), np.finfo(np.float32).tiny)
            codes = np.clip(np.rint(part / scale), -127, 127)
        else:
            scale = np.maximum(largest / np.float32(448), np.finfo(np.float32).tiny)
            clipped = np.clip(part / scale, -448, 448)
            codes = clipped.astype(ml_dtypes.float8_e4m3fn).astype(np.float32)
        rounded[:, start : start + block] = codes * scale
    return rounded


def plain_model(folder: Path, name: str) -> Any:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if name == "none":
        return model
    element, _, granularity = name.partition("_")
    for path, module in model.named_modules():
        if not isinstance(module, torch.nn.Linear) or path == "lm_head":
            continue
        weight = module.weight.detach().numpy()
        if granularity == "tensor":
            rounded = fake_quantize(weight.reshape(1, -1), element, weight.size).reshape(
                weight.shape
            )
        else:
            block = 64 if granularity == "g64" else weight.shape[1]
            rounded = fake_quantize(weight, element, block)
        module.weight.data = torch.from_numpy(rounded)
    return model


def plain_perplexity(model: Any, ids: torch.Tensor) -> float:
    total, count = 0.0, 0
    with torch.no_grad():
        for window in ids.view(NUM_WINDOWS, WINDOW):
            log_probs = model(window[None]).logits[0].double().log_softmax(-1)
            for position in range(1, WINDOW):
                total -= log_probs[position - 1, window[position]].item()
                count += 1
    return math.exp(total / count)


@pytest.fixture(scope="module")
def composed() -> Iterator[None]:
    config.register()
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "conf")):
        yield


@pytest.mark.usefixtures("composed")
@pytest.mark.parametrize("name", RECIPES)
def test_perplexity_equals_a_plain_loop(name: str, folder: Path, ids: torch.Tensor) -> None:
    sizes = [f"task.window={WINDOW}", f"task.limit_windows={NUM_WINDOWS}"]
    resolved = config.resolve(compose("config", overrides=[*RECIPES[name], *sizes]))
    loaded = cache.load(EmbeddedModel(dtype="float32"), torch.device("cpu"))
    quantize(loaded, config.build(resolved["quant"], "quant"))
    ours = config.build(resolved["task"], "task").run(LocalEngine(loaded)).metrics[0].value
    loaded.restore()
    assert ours == pytest.approx(plain_perplexity(plain_model(folder, name), ids), rel=1e-4)


LEAVES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
HEADS = {"self_attn.q_proj": 9, "self_attn.k_proj": 3}


def test_every_tensor_is_that_of_the_file_and_rounded_in_the_embedded_model() -> None:
    """The package gguf dequantizes; llama.cpp keeps both parts of a head, which rotate together, turn by turn."""
    stored = {
        tensor.name: dequantize(tensor.data, tensor.tensor_type)
        for tensor in GGUFReader(gguf_file()).tensors
    }
    cpu = torch.device("cpu")
    exact = GgufModel(path=str(gguf_file()), dtype="float32").load(cpu).module
    embedded = EmbeddedModel(dtype="float32").load(cpu)
    assert embedded.origin.endswith("1 x Q8_0), rounded to bfloat16")
    outside = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
    }
    for name, weight in exact.named_parameters():
        leaf = name.removesuffix(".weight").split(".", 3)[-1]
        there = outside.get(name) or f"blk.{name.split('.')[2]}.{LEAVES[leaf]}.weight"
        expected = torch.from_numpy(stored.pop(there).copy())
        if heads := HEADS.get(leaf):
            halves = expected.view(heads, -1, 2, expected.shape[1]).swapaxes(1, 2)
            expected = halves.reshape(expected.shape)
        assert torch.equal(weight, expected), name
        rounded = embedded.module.get_parameter(name)
        assert torch.equal(rounded, expected.bfloat16().float()), name
    assert not stored, "every tensor of the file has a place"
