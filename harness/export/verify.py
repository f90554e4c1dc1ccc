"""Compare an exported folder with the recipe in memory: `python -m harness.export.verify FOLDER REFERENCE`.

The exporting process writes a small reference file from the model in memory: the logits of some tokens, and for every tensor W [.., K] the
projection W r on a random vector r, whose seed is K. Another process reads the folder and this file alone, and compares:

1. Projections, which find any wrong code, scale or name, in every expert. If numbers of W differ by a relative error of e at most, then
   |W r - W' r| <= e |W| |r|, row by row. e is 0 where readers multiply the recipe's codes by the recipe's scales, because both sides then
   cast the same float32 numbers once.
2. Logits, which find a wrong configuration. Rounding errors add up like random numbers: 8 roundings of size u in each of n blocks make
   sqrt(8 n) u of the logits' root mean square. 4 times that is allowed. Inputs stay in float on both sides, since engines round them by
   their own arithmetic.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from harness.errors import HarnessError, ModelError
from harness.export import readback
from harness.models.loaded import LoadedModel

TEXT = (
    "The tower is 324 metres tall, about the same height as an 81-storey building, and the tallest structure in Paris. "
    "Its base is square, measuring 125 metres on each side."
)
TOKENS = 64
"""Most tokens whose logits are compared."""
CHUNK = 2**22
"""Most numbers of a tensor that are in float64 at once."""
NOISE = 2.0**-40
"""Relative error of sums in float64, in any order."""
ROUNDINGS = 8
"""Roundings in a decoder block: norm, q k v, attention, output, norm, gate and up, down, and the sum."""


def remember(loaded: LoadedModel, errors: Mapping[str, float], file: Path) -> None:
    """Write logits and projections of a model that is quantized in memory.

    Args:
        loaded: The model with its rounded weights, inputs in float.
        errors: Largest relative error of the stored scales, by name of the parameter.
        file: A safetensors file to write.
    """
    module = loaded.module
    rows = len(module.get_input_embeddings().weight)  # type: ignore[arg-type]
    longest = min(TOKENS, loaded.max_length or TOKENS)
    ids = [i for i in loaded.tokenizer(TEXT)["input_ids"] if i < rows][:longest]
    tensors = {"ids": torch.tensor(ids), "logits": _logits(module, torch.tensor(ids))}
    for name, tensor in module.state_dict().items():
        tensors[f"projection.{name}"] = _project(tensor, torch.Tensor.clone)
    facts = {
        "dtype": str(loaded.dtype).removeprefix("torch."),
        "attention": str(module.config._attn_implementation),  # noqa: SLF001 - no public name
        "device": str(loaded.device),
        "errors": dict(errors),
    }
    save_file(tensors, file, metadata={"facts": json.dumps(facts)})


def in_child(folder: Path, file: Path) -> None:
    """Compare a folder with what `remember` wrote, in a process of its own.

    Raises:
        ModelError: They differ, or the folder cannot be read.
    """
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
    }
    finished = subprocess.run(
        [sys.executable, "-m", "harness.export.verify", str(folder), str(file)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    if finished.returncode:
        lines = finished.stderr.strip().splitlines() or [f"exit code {finished.returncode}"]
        raise ModelError(
            f"an exported folder must read back as the recipe, but {lines[-1]}; nothing was published: choose another layout or "
            "add layers to quant.skip, and report it"
        )


@torch.no_grad()
def compare(folder: Path, file: Path) -> None:
    """Raise ModelError unless the folder is the model that `remember` saw."""
    expected: dict[str, Tensor] = {}
    with safe_open(file, "pt") as opened:
        facts: dict[str, Any] = json.loads(opened.metadata()["facts"])
        for key in opened.keys():  # noqa: SIM118 - it is no mapping
            expected[key] = opened.get_tensor(key)
    dtype: torch.dtype = getattr(torch, facts["dtype"])
    unit = torch.finfo(dtype).eps
    module = readback.read(folder, dtype, facts["attention"], torch.device(facts["device"]))
    read = module.state_dict()
    names = {key.removeprefix("projection.") for key in expected if key.startswith("projection.")}
    if other := sorted(names ^ read.keys()):
        raise ModelError(
            f"the model must have the same tensors, got {', '.join(other[:5])} on one side alone"
        )
    for name, tensor in read.items():
        error = facts["errors"].get(name, 0.0)
        # A scale that is not exact may also move the cast to the model's type by one step.
        error += unit if error else NOISE
        _compare_projection(name, tensor, expected[f"projection.{name}"], error)
    # The largest error of any weight: half a step of the model's type, or that of its scale and the cast after it.
    worst = max([unit / 2, *(error + unit for error in facts["errors"].values() if error)])
    blocks = getattr(module.config.get_text_config(), "num_hidden_layers", 32)
    allowed = 4 * (ROUNDINGS * blocks) ** 0.5 * worst
    wanted, got = expected["logits"].double(), _logits(module, expected["ids"]).double()
    found = float((got - wanted).square().mean().sqrt() / wanted.square().mean().sqrt())
    if not found <= allowed:
        raise ModelError(
            f"logits must be within {allowed:.1e} of their size of those in memory, got {found:.1e}"
        )


def _compare_projection(name: str, tensor: Tensor, wanted: Tensor, error: float) -> None:
    got, size = _project(tensor, torch.Tensor.clone), _project(tensor, torch.abs)
    if got.shape != wanted.shape or not bool(((got - wanted).abs() <= error * size).all()):
        raise ModelError(
            f"{name} {tuple(tensor.shape)} must have the values of the recipe, got others"
        )


def _project(tensor: Tensor, change: Any) -> Tensor:
    """Return `change(W) @ change(r)` in float64 for each row of a tensor `[.., K]`; of a vector its numbers."""
    if tensor.dim() < 2:
        return change(tensor.detach().double()).reshape(-1).cpu()  # type: ignore[no-any-return]
    # Seeded by K alone, so that both processes draw the same vector.
    rows = tensor.detach().flatten(0, -2)
    vector = torch.randn(
        rows.shape[1], dtype=torch.float64, generator=torch.Generator().manual_seed(rows.shape[1])
    )
    vector = change(vector).to(rows.device)
    step = max(CHUNK // max(rows.shape[1], 1), 1)
    parts = [change(part.double()) @ vector for part in torch.split(rows, step)]
    return torch.cat(parts).cpu()


@torch.no_grad()
def _logits(module: Any, ids: Tensor) -> Tensor:
    """Return float32 logits `[T, V]` of a sequence."""
    found: Tensor = module(ids[None].to(module.device), use_cache=False).logits
    return found[0].float().cpu()


def main() -> None:
    """Compare in this process; the last line of stderr says what differs."""
    try:
        compare(Path(sys.argv[1]), Path(sys.argv[2]))
    except Exception as reason:
        text = " ".join(str(reason).split())
        sys.stderr.write(
            text if isinstance(reason, HarnessError) else f"{type(reason).__name__}: {text}"
        )
        sys.exit(1)


if __name__ == "__main__":
    main()
