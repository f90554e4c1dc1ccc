"""Compare an exported folder with the recipe in memory (`python -m harness.export.verify`).

The exporting process writes a small reference file (`remember`). Another process reads the folder
and this file alone, and compares them:

1. *Every weight, by projection.* For a tensor W [.., K], the file has W r for a random vector r
   with seed K. If the elements of W' differ from those of W by a relative error of at most e, then
   |W r - W' r| <= e |W| |r|, row by row. A larger difference is a wrong code, scale or name, in any
   expert. e is 0 where readers multiply the recipe's codes by the recipe's scales: both processes
   cast the same float32 numbers once.
2. *The configuration, by logits.* Rounding errors add up like random numbers: 8 roundings of
   relative size u in each of n blocks change the logits by sqrt(8 n) u of their root mean square. 4
   times as much is allowed.

Activations are not rounded in either process, since each engine rounds them by its own arithmetic.
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
from transformers import PreTrainedModel

from harness.errors import HarnessError, ModelError
from harness.export.readback import read_back
from harness.models.loaded import LoadedModel

TEXT = (
    "The tower is 324 metres tall, about the same height as an 81-storey building, and the tallest "
    "structure in Paris. Its base is square, measuring 125 metres on each side."
)
TOKENS = 64
"""Most tokens whose logits are compared."""
CHUNK = 2**22
"""Most elements of a tensor that are in float64 at once."""
NOISE = 2.0**-40
"""Relative error of sums in float64, whatever their order."""
ROUNDINGS = 8
"""Roundings in a decoder block: norm, q k v, attention, output, norm, gate and up, down, and the
sum."""


def remember(loaded: LoadedModel, errors: Mapping[str, float], file: Path) -> None:
    """Write logits and projections of a model that is quantized in memory.

    Args:
        loaded: The model with rounded weights and unquantized activations.
        errors: Largest relative error of the stored scales, by name of the parameter.
        file: The safetensors file to write.
    """
    module = loaded.module
    rows = len(module.get_input_embeddings().weight)  # type: ignore[arg-type]
    longest = min(TOKENS, loaded.max_length or TOKENS)
    ids = [i for i in loaded.tokenizer(TEXT)["input_ids"] if i < rows][:longest]
    tensors = {"ids": torch.tensor(ids), "logits": _logits(module, torch.tensor(ids))}
    for name, tensor in module.state_dict().items():
        tensors[f"projection.{name}"] = _project(tensor, torch.Tensor.clone)
    facts = {
        "dtype": loaded.dtype_name,
        "attention": loaded.attention,
        "device": str(loaded.device),
        "errors": dict(errors),
    }
    save_file(tensors, file, metadata={"facts": json.dumps(facts)})


def in_child(folder: Path, file: Path) -> None:
    """Compare a folder with the file of `remember`, in a process of its own.

    Raises:
        ModelError: The two differ, or the folder cannot be read.
    """
    # The child must find the same packages, and add up with as many threads.
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
            f"an exported folder must read back as the recipe, but {lines[-1]}; nothing was "
            "published: choose another layout or add layers to quant.skip, and report it"
        )


@torch.no_grad()
def check_folder(folder: Path, file: Path) -> None:
    """Check that a folder is the model that `remember` saw.

    Raises:
        ModelError: A tensor or the logits differ, or the folder cannot be read.
    """
    expected: dict[str, Tensor] = {}
    with safe_open(file, "pt") as opened:
        facts: dict[str, Any] = json.loads(opened.metadata()["facts"])
        for key in opened.keys():  # noqa: SIM118 - no mapping
            expected[key] = opened.get_tensor(key)
    dtype: torch.dtype = getattr(torch, facts["dtype"])
    module = read_back(folder, dtype, facts["attention"], torch.device(facts["device"]))
    unit = torch.finfo(dtype).eps
    _check_weights(module, expected, facts["errors"], unit)
    _check_logits(module, expected, facts["errors"], unit)


def _check_weights(
    module: PreTrainedModel,
    expected: Mapping[str, Tensor],
    errors: Mapping[str, float],
    unit: float,
) -> None:
    """Compare every tensor by its projection (1)."""
    found = module.state_dict()
    names = {key.removeprefix("projection.") for key in expected if key.startswith("projection.")}
    if other := sorted(names ^ found.keys()):
        raise ModelError(
            f"the model must have the same tensors, got {', '.join(other[:5])} on one side alone"
        )
    for name, tensor in found.items():
        error = errors.get(name, 0.0)
        # A scale that is not exact may also move the cast to the model's type by one step.
        error += unit if error else NOISE
        wanted = expected[f"projection.{name}"]
        got, size = _project(tensor, torch.Tensor.clone), _project(tensor, torch.abs)
        if got.shape != wanted.shape or not bool(((got - wanted).abs() <= error * size).all()):
            raise ModelError(
                f"{name} {tuple(tensor.shape)} must have the values of the recipe, got others"
            )


def _check_logits(
    module: PreTrainedModel,
    expected: Mapping[str, Tensor],
    errors: Mapping[str, float],
    unit: float,
) -> None:
    """Compare the logits of some tokens (2)."""
    # The largest error of any weight: half a step of the type, or that of its scale and the cast
    # after it.
    worst = max([unit / 2, *(error + unit for error in errors.values() if error)])
    blocks = getattr(module.config.get_text_config(), "num_hidden_layers", 32)
    allowed = 4 * (ROUNDINGS * blocks) ** 0.5 * worst
    wanted, got = expected["logits"].double(), _logits(module, expected["ids"]).double()
    found = float((got - wanted).square().mean().sqrt() / wanted.square().mean().sqrt())
    if not found <= allowed:
        raise ModelError(
            f"logits must be within {allowed:.1e} of their size of those in memory, got {found:.1e}"
        )


def _project(tensor: Tensor, change: Any) -> Tensor:
    """Return `change(W) @ change(r)` in float64, one number a row; a vector as it is."""
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
    """Return the float32 logits `[T, V]` of a sequence."""
    found: Tensor = module(ids[None].to(module.device), use_cache=False).logits
    return found[0].float().cpu()


def main() -> None:
    """Compare in this process; the last line of stderr says what differs."""
    try:
        check_folder(Path(sys.argv[1]), Path(sys.argv[2]))
    except Exception as reason:
        text = " ".join(str(reason).split())
        sys.stderr.write(
            text if isinstance(reason, HarnessError) else f"{type(reason).__name__}: {text}"
        )
        sys.exit(1)


if __name__ == "__main__":
    main()
