"""How exactly each backend multiplies on this processor: the table of docs/low_precision.md.

    python scripts/bench_exactness.py --out results/published/bench_exactness/tiny.json

The tiny model is quantized with each recipe in each type. The figure is the largest relative error
of a layer, `quant.compute.rel_error` of the record.
"""

import argparse
import json
from pathlib import Path

import torch
from bench_throughput import recipe_of

from harness.errors import HarnessError
from harness.machine import provenance
from harness.models.sources.tiny import TinyModel
from harness.output.atomic import write_atomic
from harness.recipe import quantize

RECIPES = (
    "int8_row_real",
    "w8a8_real",
    "fp8_row_real",
    "torchao_int8_row",
    "torchao_int8_dynamic",
    "bnb_int8",
)
DTYPES = ("float32", "bfloat16", "float16")


def rel_error(name: str, dtype: str) -> float | str:
    """Return the largest relative error of a layer, or why nothing was measured."""
    loaded = TinyModel(dtype=dtype).load(torch.device("cpu"))
    try:
        compute = quantize(loaded, recipe_of(name)).report.compute
    except HarnessError as reason:
        return str(reason)
    return compute.rel_error if compute else "not measured"


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    out = parser.parse_args().out
    rows = {name: {dtype: rel_error(name, dtype) for dtype in DTYPES} for name in RECIPES}
    made = provenance.collect({}, torch.device("cpu")).model_dump(mode="json")
    text = json.dumps({"recipes": rows, "provenance": made}, indent=1) + "\n"
    print(text)
    if out:
        write_atomic(out, text.encode(), "--out", force=True)


if __name__ == "__main__":
    main()
