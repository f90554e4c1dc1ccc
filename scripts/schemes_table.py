"""Write the tables of docs/choose.md: the backends and layouts say which recipes run where.

    python scripts/schemes_table.py            rewrite them
    python scripts/schemes_table.py --check    exit with 1 if a table is not what the code says

No GPU is needed: each column stands for a CUDA capability. Checks that multiply on the device (do
INT8 matmuls saturate?) are left out.
"""

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest.mock import patch

import pandas as pd
import torch
from hydra import compose, initialize_config_dir

import harness.cli.run  # noqa: F401 - registers the schema of the configuration
from harness import config
from harness.backends.bitsandbytes import int8 as bitsandbytes_int8
from harness.backends.layer import LayerRule
from harness.backends.scaled_mm import backend as scaled_mm
from harness.backends.torchao import integer_tensors
from harness.export.engine_kernels import fitting
from harness.export.layouts import CompressedTensors, Gptq
from harness.output.atomic import write_atomic
from harness.quant import bits_per_element
from harness.recipe import QuantRecipe

PAGE = Path(__file__).parents[1] / "docs" / "choose.md"
REGION = re.compile(r"(<!-- schemes: (?P<name>\w+) -->\n).*?(<!-- end of table -->)", re.DOTALL)

DEVICES: dict[str, tuple[str, tuple[int, int] | None]] = {
    "CPU": ("cpu", None),
    "Ampere (8.0)": ("cuda", (8, 0)),
    "Ada (8.9)": ("cuda", (8, 9)),
    "Hopper (9.0)": ("cuda", (9, 0)),
    "Blackwell (10.0)": ("cuda", (10, 0)),
}
"""Column -> type of the device, CUDA capability."""
REAL = (
    *("int8_row_real", "int8_g64_real", "fp8_row_real", "w8a8_real", "w8a8_static_real"),
    *("w8a8_fp8_real", "torchao_int8_row", "torchao_int8_dynamic", "torchao_int4_g64"),
    *("torchao_fp8_row", "torchao_fp8_dynamic_row", "torchao_mxfp8", "torchao_mxfp4"),
    *("torchao_nvfp4", "torchao_nvfp4_dynamic", "bnb_nf4", "bnb_nf4_dq", "bnb_int8"),
)
EXPORTED = (
    *("int8_row", "int8_g128", "int4_g128", "int4_asym_group", "fp8_row", "fp8_tensor"),
    *("fp8_block", "w8a8", "w8a8_static", "w4a8", "w8a8_fp8", "mxfp8", "mxfp4", "w4a4_mxfp4"),
    *("nvfp4", "w4a4_nvfp4", "nf4_b64", "hif8", "hif4"),
)
SHAPE = (4096, 4096)
"""Of the weight whose bits are counted and whose kernels are looked up."""


def recipe(name: str) -> QuantRecipe:
    """Return a recipe of `conf/quant`."""
    with initialize_config_dir(version_base="1.3", config_dir=str(config.CONF)):
        resolved = config.resolve(compose("config", [f"+quant={name}"]))
    built = config.build(resolved["quant"], "quant")
    return config.check_component(built, QuantRecipe, "quant")


def runs_on(found: QuantRecipe, kind: str, capability: tuple[int, int] | None) -> str:
    """Return `yes`, or `-` where the backend says that the recipe cannot run on such a device."""
    with (
        patch.object(torch.cuda, "get_device_capability", lambda _device=None: capability),
        patch.object(scaled_mm, "saturation", lambda *_: None),
        patch.object(integer_tensors, "saturation", lambda *_: None),
        patch.object(bitsandbytes_int8, "saturation", lambda *_: None),
    ):
        reason = found.backend.supports(tuple(found.rules.values()), torch.device(kind))
    return "yes" if reason is None else "-"


def size(rule: LayerRule) -> str:
    """Return bits and bytes of a weight, scales included."""
    bits = bits_per_element(rule.weight, SHAPE)
    return f"{bits:.3f} ({bits / 8:.3f} bytes)"


def activations(rule: LayerRule) -> str:
    """Return the format of the activations."""
    if rule.input is None:
        return "not quantized"
    return f"{rule.input.name}{', static' if rule.static_input else ''}"


def real() -> pd.DataFrame:
    """Return the recipes with kernels, and the devices that run them."""
    rows = []
    for name in REAL:
        found = recipe(name)
        [rule] = found.rules.values()
        row = {"recipe": f"`{name}`", "library": found.backend.name, "bits/weight": size(rule)}
        row["activations"] = activations(rule)
        rows.append(row | {column: runs_on(found, *device) for column, device in DEVICES.items()})
    return pd.DataFrame(rows)


def exported() -> pd.DataFrame:
    """Return the fake-quantized recipes, the layouts that hold them, and the kernels of vLLM."""
    rows = []
    for name in EXPORTED:
        found = recipe(name)
        [rule] = found.rules.values()
        row = {"recipe": f"`{name}`", "bits/weight": size(rule), "activations": activations(rule)}
        for layout in (CompressedTensors(), Gptq()):
            row[f"`layout={layout.name}`"] = "-" if layout.unsupported(found.rules) else "yes"
        for device in ("GPU", "CPU"):
            kernels = fitting(rule, SHAPE, torch.bfloat16, device)
            row[f"vLLM on a {device}"] = ", ".join(kernel.name for kernel in kernels) or "-"
        rows.append(row)
    return pd.DataFrame(rows)


TABLES: dict[str, Callable[[], pd.DataFrame]] = {"real": real, "exported": exported}


def rendered(text: str) -> str:
    """Return a page with its tables as the code says them."""

    def table(found: re.Match[str]) -> str:
        frame = TABLES[found["name"]]()
        lines = [" | ".join(map(str, row)) for row in [list(frame), ["---"] * len(frame.columns)]]
        lines += [" | ".join(map(str, row)) for row in frame.itertuples(index=False)]
        return found[1] + "".join(f"| {line} |\n" for line in lines) + found[3]

    return REGION.sub(table, text)


def main(arguments: Sequence[str] | None = None) -> None:
    """Rewrite the page, or check it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="exit with 1 if a table differs")
    before = PAGE.read_text(encoding="utf-8")
    after = rendered(before)
    if parser.parse_args(arguments).check:
        if after != before:
            sys.exit("these tables are not what the code says: python scripts/schemes_table.py")
        return
    write_atomic(PAGE, after.encode(), "docs", "folder", force=True)


if __name__ == "__main__":
    main()
