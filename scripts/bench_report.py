"""How long a report over many records takes, and its peak memory.

    python scripts/bench_report.py --models 40 --recipes 25

Makes records in a temporary folder and prints JSON: times [s] and peak memory [byte] of
`python -m harness.report` on them, in a process of its own. Every model has two groups, one of
perplexity and one of MMLU, with a record of each recipe: 40 models and 25 recipes are 2,000
records. They are copies of two published ones (65 kB of JSON with 210 layers; 40 windows with
81,880 tokens of 17 documents, or 1,000 questions of 57 subjects) with names, values and samples of
their own: recipe r adds r times a small noise to the log-losses, and changes r answers of 1,000.
"""

import argparse
import hashlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from harness.output.atomic import write_atomic
from harness.results.record import RunRecord
from harness.results.store import SAMPLES_SUFFIX, ResultStore, Stored, encoded, read_samples

PUBLISHED = Path(__file__).parents[1] / "results" / "published" / "granularity-smollm2"
NOISE = 1e-3
"""Deviation that a step of the recipes adds to the log-loss of a token [nat]."""
FLIPS = 1e-3
"""Share of the answers that a step of the recipes changes."""


def templates(root: Path) -> list[tuple[Stored, pd.DataFrame]]:
    """Return a quantized run of perplexity and one of MMLU, with their samples."""
    stored, _ = ResultStore(root=root).load()
    found = {
        item.record.task.name: item
        for item in stored
        if item.record.task is not None and item.record.quant is not None
        if item.record.quant.kind == "fake-quant" and item.record.task.name != "mmlu_generate"
    }
    return [(item, read_samples(item)) for _, item in sorted(found.items())]


def record_of(template: RunRecord, model: int, recipe: int, value: float) -> RunRecord:
    """Return the record of a recipe on a model; recipe 0 is the unquantized model."""
    fields = template.model_dump(mode="json")
    name = "none" if recipe == 0 else f"recipe_{recipe}"
    digest = hashlib.sha256(f"{template.task}{model} {recipe}".encode()).hexdigest()
    fields["model"] |= {"name": f"model-{model}", "fingerprint": f"fingerprint-{model}"}
    fields["quant"] |= {"name": name, "bits_per_weight": 16 - recipe / 4}
    if recipe == 0:
        fields["quant"] |= {"kind": "none", "formats": {}, "layers": [], "num_quantized": 0}
    fields["config"] |= {"quant": fields["config"]["quant"] | {"name": name, "rules": name}}
    fields["config"] |= {"model": fields["config"]["model"] | {"name": f"model-{model}"}}
    fields["metrics"][0] |= {"value": value}
    fields |= {"run_id": f"{digest[:12]}-20261201T000000000000", "config_hash": digest}
    return RunRecord.model_validate_json(json.dumps(fields | {"recipe": name}))


def changed(samples: pd.DataFrame, recipe: int, seed: int) -> tuple[pd.DataFrame, float]:
    """Return the samples of a recipe, and its headline."""
    random = np.random.default_rng(seed)
    if "token_nll" not in samples:
        flipped = random.random(len(samples)) < recipe * FLIPS
        correct = samples["correct"].where(~flipped, 1 - samples["correct"])
        return samples.assign(correct=correct), float(correct.mean())
    moved = [nll + recipe * NOISE * random.normal(0.1, 1, len(nll)) for nll in samples["token_nll"]]
    nll = [each.sum() for each in moved]
    mean = sum(nll) / samples["num_tokens"].sum()
    # Multiples of 2^-26, as on file: they compress.
    tokens = [np.rint(each * 2**26) / 2**26 for each in moved]
    return samples.assign(nll=nll, token_nll=tokens), float(np.exp(mean))


def fill(root: Path, models: int, recipes: int) -> int:
    """Write the records and their samples; return how many records there are."""
    store = ResultStore(root=root)
    for number, (template, samples) in enumerate(templates(PUBLISHED)):
        for model, recipe in product(range(models), range(recipes)):
            own, value = changed(samples, recipe, seed=model * recipes + recipe)
            record, name = record_of(template.record, model, recipe, value), f"model-{model}"
            path = store.path(record, task=f"task-{number}", model=name, recipe=f"r{recipe}")
            content = encoded(own)
            file = path.with_suffix(SAMPLES_SUFFIX)
            write_atomic(file, content, "--out", force=True)
            digest = hashlib.sha256(content).hexdigest()
            update = {"samples_file": file.name, "samples_sha256": digest}
            store.write(path, record.model_copy(update=update))
    return len([*root.glob("*/*/*.json")])


def measure(results: Path, out: Path) -> dict[str, float | int]:
    """Write the report of a folder; return times [s], and peak memory and its size [byte]."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "harness.report", str(results), "--out", str(out)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    wall, used = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "wall_s": round(wall, 2),
        "user_s": round(used.ru_utime, 2),
        "system_s": round(used.ru_stime, 2),
        "peak_bytes": used.ru_maxrss * 1024,  # Linux counts in KiB
        "report_bytes": next(out.glob("*.md")).stat().st_size,
    }


def main() -> None:
    """Make the records, write their report, print what it took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=int, default=40)
    parser.add_argument("--recipes", type=int, default=25)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        records = fill(Path(folder) / "results", chosen.models, chosen.recipes)
        found = measure(Path(folder) / "results", Path(folder) / "reports")
    print(json.dumps({"records": records, **found}, indent=1))


if __name__ == "__main__":
    main()
