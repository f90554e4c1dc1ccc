"""How far a checkpoint is from its recipe, read by transformers: the tables of docs/checkpoints.md.

    python scripts/bench_checkpoints.py --out results/published/bench_checkpoints/smollm2.json

SmolLM2-135M is exported with each recipe, read back by transformers with compressed-tensors, and
asked for the log-probabilities of one text. Differences are means of their absolute values over the
tokens of it [nat/token]. Nothing is timed.
"""

import argparse
import gc
import json
import logging
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from bench_throughput import recipe_of
from transformers import AutoModelForCausalLM, CompressedTensorsConfig, PreTrainedModel

from harness.data.embedded import EmbeddedData
from harness.export.checkpoint import export
from harness.export.layouts.compressed_tensors import CompressedTensors
from harness.export.layouts.gptq import Gptq
from harness.machine import provenance
from harness.models import cache
from harness.models.loaded import LoadedModel
from harness.models.sources.embedded import EmbeddedModel
from harness.models.tokens import tokenizer_of
from harness.output.atomic import write_atomic
from harness.recipe import quantize

RECIPES = ("int8_row", "int4_g64", "fp8_row", "nvfp4", "w8a8")
WITH_INPUTS = ("w8a8",)
"""Read with `dequantize=True` their inputs stay in float, which is another model."""
TOKENS = 512
FACTS = {
    "command": "scripts/bench_checkpoints.py",
    "config": {},
    "config_hash": "0" * 64,
    "packages": {"quant-harness": "0"},
}

Json = dict[str, Any]


@torch.no_grad()
def log_probabilities(module: PreTrainedModel, ids_S: torch.Tensor) -> torch.Tensor:
    """Return the log-probability of every token but the first, `[S - 1]`."""
    found = module(ids_S[None], use_cache=False).logits.float().log_softmax(-1)
    return found[0, :-1].gather(-1, ids_S[1:, None]).squeeze(-1)


def read(folder: Path, ids_S: torch.Tensor, **options: Any) -> torch.Tensor:
    """Return the log-probabilities that transformers gives a folder."""
    module = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, **options)
    found = log_probabilities(module.train(mode=False), ids_S)
    del module
    gc.collect()
    return found


def measure(name: str, loaded: LoadedModel, ids_S: torch.Tensor) -> Json:
    """Return the differences of one recipe."""
    chosen, of_float = recipe_of(name), log_probabilities(loaded.module, ids_S)

    def apart(one: torch.Tensor, other: torch.Tensor) -> float:
        return float((one - other).abs().mean())

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        made = export(loaded, chosen, CompressedTensors(), out, shard_bytes=10**9, facts=FACTS)
        quantize(loaded, chosen)
        in_memory = log_probabilities(loaded.module, ids_S)
        loaded.restore()
        dequantize = {"quantization_config": CompressedTensorsConfig(dequantize=True)}
        return {
            "scale_error": made.scale_error,
            "recipe_from_float": apart(in_memory, of_float),
            "compressed": apart(read(out, ids_S), in_memory),
            "dequantized": None
            if name in WITH_INPUTS
            else apart(read(out, ids_S, **dequantize), in_memory),
        }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")  # transformers warns that it is told how to read the folder
    logging.disable(logging.WARNING)
    loaded = cache.load(EmbeddedModel(), torch.device("cpu"))
    ids_S = torch.tensor(tokenizer_of(loaded).encode(EmbeddedData().text().text).ids[:TOKENS])
    rows = {}
    for name in RECIPES:
        rows[name] = measure(name, loaded, ids_S)
        print(name, rows[name], flush=True)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        made = export(loaded, recipe_of("int4_g64"), Gptq(), out, shard_bytes=10**9, facts=FACTS)
    about = provenance.collect({}, loaded.device).model_dump(mode="json")
    result = {
        "tokens": len(ids_S),
        "recipes": rows,
        "gptq_scale_error": made.scale_error,
        "provenance": about,
    }
    if chosen.out:
        write_atomic(chosen.out, f"{json.dumps(result, indent=1)}\n".encode(), "--out", force=True)


if __name__ == "__main__":
    main()
