"""Check vLLM beside transformers on two exports of SmolLM2-135M: what `make vllm-check` runs.

    python scripts/check_vllm.py --python .venv-vllm/bin/python
    python scripts/check_vllm.py --python ... --out results/published/bench_vllm/smollm2.json

Each export is read by transformers (`engine=local`) and by vLLM (`engine=vllm`):

    NLL      of WikiText in 8 windows of 512 tokens: the means of the first window and of all
             windows differ by at most 0.02 nat; w8a8 in float32, int4_g64 in bfloat16
    MMLU     the answers to 40 questions, paired by id, in bfloat16: equal wherever a letter leads
             by 0.5 nat
    speed    the stamps of vLLM are there and in order, in bfloat16

INT8 activations round at every layer, so a difference in the last bit decides codes further up. How
much that alone moves is measured too, without a bound: w8a8 in bfloat16, transformers in both
types, and transformers in float32 with its embeddings changed by one part in a million. By this
alone, the mean of one window of w8a8 has a standard error of 0.012 nat. The exit code is 1 if a
check fails. Needs HARNESS_DATA or the hub.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from harness.data.hub import HubData
from harness.data.source import CHOICES
from harness.engines.base import Engine
from harness.engines.local.engine import LocalEngine
from harness.engines.requests import Score, Scored
from harness.engines.timed import Stamps, Workload
from harness.engines.vllm import VllmEngine
from harness.engines.vllm.running import RunningVllm
from harness.machine import provenance
from harness.models.loaded import Dtype
from harness.models.sources.pretrained import LocalModel
from harness.output.atomic import write_atomic
from harness.results.record import SampleScore
from harness.tasks.mmlu import MMLU, Direct

RECIPES = ("w8a8", "int4_g64")
IN_FLOAT32 = ("w8a8",)
"""Recipes whose NLL has the bound in float32; vLLM's INT4 kernel for CPUs has no float32."""
CPU = torch.device("cpu")
WINDOW, NUM_WINDOWS = 512, 8
MOST_NLL = 0.02
"""Largest difference of the mean NLL, of the first window and of all [nat/token]."""
QUESTIONS = 40
LEAD = 0.5
"""By how much the best letter must lead in transformers for its answer to count [nat]."""
BATCH, PROMPT, NEW, ROUNDS = 4, 128, 32, 3
CACHE_BYTES = 2**29
"""Memory of vLLM's KV cache: 8,192 tokens in float32. Its default on a CPU is most of the
machine's."""

Json = dict[str, Any]


def token_nll(engine: Engine) -> np.ndarray[Any, Any]:
    """Return the NLL `[windows, WINDOW - 1]` of the first tokens of WikiText [nat]."""
    ids = engine.tokenizer.encode(HubData().text().text).ids
    windows = [ids[i * WINDOW : (i + 1) * WINDOW] for i in range(NUM_WINDOWS)]
    requests = [Score((first,), tuple(rest)) for first, *rest in windows]
    found = {i: a.log_probs for i, a in engine.answer(requests) if isinstance(a, Scored)}
    return -np.stack([found[i] for i in range(NUM_WINDOWS)])


def answers(engine: Engine) -> dict[str, SampleScore]:
    """Return the answers to MMLU questions by id."""
    task = MMLU(data=HubData(), answer=Direct(), limit=QUESTIONS)
    return {sample.id: sample for sample in task.run(engine).samples}


def paired(asked: Mapping[str, SampleScore], other: Mapping[str, SampleScore]) -> Json:
    """Return how many answers are equal: of all, and of those that lead in `other`."""
    equal = {key for key in other if key in asked and asked[key].answer == other[key].answer}
    clear = {key for key, sample in other.items() if _lead(sample) >= LEAD}
    return {
        "questions": len(other),
        "equal": len(equal),
        "clear": len(clear),
        "clear_and_equal": len(clear & equal),
    }


def _lead(sample: SampleScore) -> float:
    """Return how much more likely the best letter is than the second one [nat]."""
    *_, second, best = sorted(sample.scores[f"log_prob_{letter}"] for letter in CHOICES)
    return best - second


def speed(engine: Engine) -> Json:
    """Return rates of the fastest round [token/s], and whether all stamps are there in order."""
    ids = np.random.default_rng(0).integers(1000, engine.vocab_size, (BATCH, PROMPT))
    prompts = tuple(tuple(int(token) for token in row) for row in ids)
    with engine.time(Workload(prompts=prompts, new_tokens=NEW)) as model:
        rounds = [model.request().sequences for _ in range(ROUNDS)]
    stamped = [each for each in rounds if each is not None]
    return {
        "batch": BATCH,
        "prompt_tokens": PROMPT,
        "new_tokens": NEW,
        "in_order": len(stamped) == ROUNDS and all(map(_in_order, stamped)),
        "prefill": max((BATCH * PROMPT / _prefill_s(each) for each in stamped), default=None),
        "decode": max((BATCH * (NEW - 1) / _decode_s(each) for each in stamped), default=None),
    }


def _in_order(batch: Sequence[Stamps]) -> bool:
    return all(each.started < each.first_token < each.last_token for each in batch)


def _prefill_s(batch: Sequence[Stamps]) -> float:
    return max(each.first_token for each in batch) - min(each.started for each in batch)


def _decode_s(batch: Sequence[Stamps]) -> float:
    return max(each.last_token for each in batch) - min(each.first_token for each in batch)


def local(folder: Path, dtype: Dtype) -> LocalEngine:
    """Return an engine for the folder as transformers reads it."""
    return LocalEngine(LocalModel(path=str(folder), dtype=dtype).load(CPU))


def nudged(engine: LocalEngine) -> LocalEngine:
    """Change each number of the embeddings by about one part in a million, in place."""
    weight = engine.loaded.module.get_input_embeddings().weight
    noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        weight.mul_(1 + 1e-6 * noise)
    return engine


def compared(name: str, nll: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> Json:
    """Return how far two arrays of NLL are apart."""
    difference = nll - other
    return {
        "name": name,
        "num_tokens": difference.size,
        "mean": float(nll.mean()),
        "other": float(other.mean()),
        "difference": float(difference.mean()),
        "standard_error": float(difference.std(ddof=1) / difference.size**0.5),
        "absolute": float(np.abs(difference).mean()),
        "first_window": float(difference[0].mean()),
    }


def in_vllm(folder: Path, python: str, dtype: Dtype) -> AbstractContextManager[RunningVllm]:
    """Context manager: an engine for the folder as vLLM reads it."""
    source = VllmEngine(
        path=str(folder),
        python=python,
        dtype=dtype,
        enforce_eager=True,
        extra={"kv_cache_memory_bytes": CACHE_BYTES},
    )
    return source.start(None, CPU)


def check(recipe: str, folder: Path, python: str) -> Json:
    """Measure an export in both engines."""
    with in_vllm(folder, python, "bfloat16") as vllm:
        in_bfloat16, asked, rates = token_nll(vllm), answers(vllm), speed(vllm)
        facts = vllm.describe()
    narrow, wide = local(folder, "bfloat16"), local(folder, "float32")
    expected, expected_wide = token_nll(narrow), token_nll(wide)
    answered, answered_wide = answers(narrow), answers(wide)
    moved = token_nll(nudged(wide))
    # The first row has the bound.
    nll = [
        compared("vLLM and transformers, bfloat16", in_bfloat16, expected),
        compared("transformers, bfloat16 and float32", expected, expected_wide),
        compared("transformers, float32, embeddings changed by 1e-6", moved, expected_wide),
    ]
    if recipe in IN_FLOAT32:
        with in_vllm(folder, python, "float32") as vllm:
            in_float32 = token_nll(vllm)
        nll.insert(0, compared("vLLM and transformers, float32", in_float32, expected_wide))
    mmlu = [paired(asked, answered), paired(answered, answered_wide)]
    checks = {
        "nll": is_close(nll[0]),
        "mmlu": asked.keys() == answered.keys() and mmlu[0]["clear"] == mmlu[0]["clear_and_equal"],
        "stamps": rates["in_order"],
    }
    return {
        "recipe": recipe,
        "engine": dict(facts),
        "nll": nll,
        "mmlu": mmlu,
        "speed": rates,
        "checks": checks,
    }


def is_close(nll: Mapping[str, Any]) -> bool:
    """Return whether the means of the first window and of all windows are within the bound."""
    return all(abs(nll[which]) <= MOST_NLL for which in ("first_window", "difference"))


def show(found: Sequence[Mapping[str, Any]]) -> None:
    """Print what was measured."""
    table = Table("recipe", "what", "measured", "check")
    for each in found:
        for index, row in enumerate(each["nll"]):
            verdict = _verdict(each["checks"]["nll"]) if index == 0 else ""
            said = (
                f"{row['mean']:.4f} and {row['other']:.4f}: {row['difference']:+.4f} +- "
                f"{row['standard_error']:.4f} nat, first window {row['first_window']:+.4f}, "
                f"each token {row['absolute']:.3f}"
            )
            table.add_row(each["recipe"], f"NLL, {row['name']}", said, verdict)
        for index, name in enumerate(("vLLM and transformers", "transformers, both types")):
            pair = each["mmlu"][index]
            said = (
                f"{pair['equal']} of {pair['questions']} equal, "
                f"{pair['clear_and_equal']} of the {pair['clear']} that lead by {LEAD} nat"
            )
            verdict = _verdict(each["checks"]["mmlu"]) if index == 0 else ""
            table.add_row(each["recipe"], f"MMLU, {name}", said, verdict)
        rates = each["speed"]
        said = f"prefill {rates['prefill']:.0f}, decode {rates['decode']:.1f} token/s"
        table.add_row(each["recipe"], "vLLM", said, _verdict(each["checks"]["stamps"]))
    Console(width=150).print(table)


def _verdict(passed: bool) -> str:
    return "passed" if passed else "FAILED"


def main() -> None:
    """Export, measure, show, and fail if a check does."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", required=True, help="the Python that has vLLM")
    parser.add_argument("--out", type=Path, help="file for the figures")
    words = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory() as scratch:
        for recipe in RECIPES:
            folder = Path(scratch) / recipe
            export = ["model=smollm2_135m", f"+quant={recipe}", f"out={folder}"]
            subprocess.run([sys.executable, "-m", "harness.export", *export], check=True)
            found.append(check(recipe, folder, words.python))
    made: Json = {
        "exports": found,
        "lead": LEAD,
        "provenance": provenance.collect({}, CPU).model_dump(mode="json"),
    }
    print(made["provenance"]["cpu"])
    show(found)
    if words.out is not None:
        write_atomic(words.out, f"{json.dumps(made, indent=1)}\n".encode(), "--out", force=True)
    if not all(passed for each in found for passed in each["checks"].values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
