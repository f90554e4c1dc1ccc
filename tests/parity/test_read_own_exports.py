"""Folders that this project exports, read by this project: what runs is the recipe in memory."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from repository import CONF
from transformers import LlamaConfig, LlamaForCausalLM

from harness.backends.fake import FakeBackend
from harness.config import build, register, resolve
from harness.export import verify
from harness.export.checkpoint import export
from harness.export.layouts.compressed_tensors import CompressedTensors
from harness.models.loaded import LoadedModel
from harness.models.sources.pretrained import LocalModel
from harness.models.sources.tiny import byte_tokenizer
from harness.models.targets.targets import find_targets
from harness.recipe import QuantRecipe, quantize

pytest.importorskip("compressed_tensors")

CPU = torch.device("cpu")
IDS = torch.arange(1, 40)[None]
FACTS = {"command": "", "config": {}, "config_hash": "0" * 64, "packages": {"quant-harness": "0"}}
LOGITS = 1e-4
"""Logits are of size 1 to 10; two orders of the same float32 sums of 256 terms differ by 1e-6 of
that, a few of which become a step of a rounded input."""


@pytest.fixture(autouse=True)
def read_back_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read exports back in this process; another test starts the child."""
    monkeypatch.setattr(verify, "in_child", verify.check_folder)


def recipe(name: str) -> QuantRecipe:
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        node = resolve(compose("config", ["model=tiny", "data=embedded", f"+quant={name}"]))[
            "quant"
        ]
    found: QuantRecipe = build(node, "quant")
    return replace(found, backend=FakeBackend())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose rows are whole blocks of 128, with a head tied to the embedding."""
    path = tmp_path_factory.mktemp("float")
    tokenizer = byte_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=128,
                intermediate_size=256,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=512,
                initializer_range=0.1,
                tie_word_embeddings=True,
                bos_token_id=None,
                eos_token_id=None,
            )
        ).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def load(path: Path) -> LoadedModel:
    return LocalModel(path=str(path), name="m", dtype="float32").load(CPU)


@torch.no_grad()
def logits(loaded: LoadedModel) -> torch.Tensor:
    return loaded.module(IDS, use_cache=False).logits


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        ("int8_row", 8),
        ("int4_g64", 4.5),
        ("int4_asym_group", 4.5),
        ("int3_g64", 3.5),
        ("fp8_block", 8),
        ("nvfp4", 4.5),
        ("mxfp4", 4.25),
        ("mxfp6_e2m3", 6.25),
        ("w8a8", 8),
        ("w4a8", 4.25),
        ("w8a8_fp8", 8),
        ("w4a4_nvfp4", 4.5),
    ],
)
def test_exported_folder_is_the_recipe_in_memory(
    name: str, bits: float, folder: Path, tmp_path: Path
) -> None:
    loaded, chosen = load(folder), recipe(name)
    export(loaded, chosen, CompressedTensors(), tmp_path / "out", shard_bytes=10**9, facts=FACTS)
    found = load(tmp_path / "out")
    in_memory = quantize(loaded, chosen).report
    ours = {target.name: target.weight.detach() for target in find_targets(loaded.module)}
    for target in find_targets(found.module):
        # NVFP4: the file has 1 / g for g, which is two roundings of float32.
        exactly = 0 if "nvfp4" not in name else 2.0**-22
        torch.testing.assert_close(target.weight, ours[target.name], rtol=exactly, atol=0)
    same = logits(loaded)
    assert (logits(found) - same).abs().max() < LOGITS
    report = quantize(found, QuantRecipe()).report
    assert bool(report.input_formats) is bool(in_memory.input_formats)
    # Scales of rows, shapes and outer scales: a few bits a row of 128 or more.
    assert bits <= report.bits_per_weight < bits + 0.3
    assert report.num_quantized == in_memory.num_quantized
    if chosen.rules["linear"].input is not None:
        weights_alone = replace(chosen.rules["linear"], input=None)
        loaded.restore()
        quantize(loaded, replace(chosen, rules={"linear": weights_alone}))
        assert (logits(loaded) - same).abs().max() > 100 * LOGITS


def test_static_scales_of_inputs_are_read(folder: Path, tmp_path: Path) -> None:
    loaded, chosen = load(folder), recipe("w8a8_static")
    assert chosen.calibration is not None
    chosen = replace(chosen, calibration=replace(chosen.calibration, num_sequences=2))
    export(loaded, chosen, CompressedTensors(), tmp_path / "out", shard_bytes=10**9, facts=FACTS)
    found = load(tmp_path / "out")
    quantize(loaded, chosen)
    # What lies below the static range saturates at -128 in kernels, at -127 in the recipe.
    assert (logits(found) - logits(loaded)).abs().mean() < 1e-2
    assert quantize(found, QuantRecipe()).report.input_formats == {
        "checkpoint": "int8 by tensor, static"
    }
    assert re.search("int8 inputs by tensor, static", found.origin)
