"""Write the table of docs/models.md: save, load, quantize and export a model of every architecture.

    python scripts/model_matrix.py                    # all, in 15 minutes; rewrites docs/models.md
    python scripts/model_matrix.py llama qwen2_vl     # some, as lines of text

What is right is said by tests/support/rounding.py, which shares no code with the project.
"""

import argparse
import math
import re
import sys
import tempfile
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForMultimodalLM, PreTrainedModel
from transformers.utils import logging

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))

from architectures import ARCHITECTURES, save  # noqa: E402
from rounding import UNCALLED, RoundedInputs, round_weights  # noqa: E402

from harness import __version__  # noqa: E402
from harness.backends.layer import LayerRule  # noqa: E402
from harness.backends.scaled_mm.backend import ScaledMMBackend  # noqa: E402
from harness.data.embedded import EmbeddedData  # noqa: E402
from harness.engines.local.engine import LocalEngine  # noqa: E402
from harness.errors import HarnessError  # noqa: E402
from harness.export.checkpoint import export  # noqa: E402
from harness.export.layouts.compressed_tensors import CompressedTensors  # noqa: E402
from harness.formats.integer import Integer  # noqa: E402
from harness.models.loaded import LoadedModel  # noqa: E402
from harness.models.sources.pretrained import LocalModel  # noqa: E402
from harness.models.sources.tiny import byte_tokenizer  # noqa: E402
from harness.output.atomic import write_atomic  # noqa: E402
from harness.quant.granularity import Granularity  # noqa: E402
from harness.quant.schemes.block_scaled import BlockScaled  # noqa: E402
from harness.recipe import QuantRecipe, quantize  # noqa: E402
from harness.results.record import QuantReport  # noqa: E402
from harness.tasks.perplexity.perplexity import Perplexity  # noqa: E402

PAGE = ROOT / "docs" / "models.md"
BEGIN, END = "<!-- begin: scripts/model_matrix.py -->\n", "<!-- end -->\n"
WIDTH = 100
"""Columns of a line of prose in the documentation."""
WINDOW = 128
TASK = Perplexity(data=EmbeddedData(), window=WINDOW, limit_windows=2)
ROWS = BlockScaled(element=Integer(bits=8), granularity=Granularity(block=(1, -1)))
INT8 = QuantRecipe(name="int8_row", rules={"linear": LayerRule(match="*", weight=ROWS)})
REAL = replace(INT8, name="int8_row_real", backend=ScaledMMBackend())
W8A8 = replace(INT8, name="w8a8", rules={"linear": LayerRule(match="*", weight=ROWS, input=ROWS)})
FACTS = {
    "command": "scripts/model_matrix.py",
    "config": {},
    "config_hash": "0" * 64,
    "git_commit": None,
    "git_dirty": None,
    "packages": {"quant-harness": __version__},
}
"""What a model card wants to say."""
HEADER = (
    "| architecture | class | attention | `none` | `int8_row` | `int8_row_real` | `w8a8` | export "
    "| of the text model, stays in float |\n|---|---|---|---|---|---|---|---|---|\n"
)


class Reasons:
    """Numbers for the reasons why something is refused."""

    def __init__(self) -> None:
        self.known: dict[str, int] = {}

    def number(self, reason: str) -> int:
        """Return the number of a reason; what it says of one model is left out."""
        kind = re.split(r", got |, but (?=got|the)|; ", reason.replace("\n", " "))[0]
        kind = re.sub(r"\b[A-Z]\w*(For\w+|LMHeadModel)\b", "its class", kind)
        return self.known.setdefault(kind, len(self.known) + 1)

    def notes(self) -> list[str]:
        """Return the numbered reasons, wrapped like the rest of the page."""
        lines = (f"{number}. {reason}" for reason, number in self.known.items())
        return [textwrap.fill(line, WIDTH, subsequent_indent="   ") for line in lines]


def token_ids() -> torch.Tensor:
    """Return the windows that are scored."""
    ids = byte_tokenizer()(EmbeddedData().text().text, verbose=False)["input_ids"]
    return torch.tensor(ids[: 2 * WINDOW]).view(2, WINDOW)


@torch.inference_mode()
def plain(module: PreTrainedModel) -> float:
    """Return the perplexity by a plain loop in float64."""
    nll = []
    for window in token_ids():
        log_p = module(window[None], use_cache=False).logits[0].double().log_softmax(-1)
        nll.append(-log_p[:-1].gather(1, window[1:, None]).mean())
    return math.exp(float(torch.stack(nll).mean()))


def measured(loaded: LoadedModel) -> float:
    """Return the perplexity by the project."""
    result = TASK.run(LocalEngine(loaded, batch_tokens=WINDOW))
    found = {metric.name: metric.value for metric in result.metrics}
    return found["perplexity"] or math.nan


def verdict(found: float, expected: float, tolerance: float) -> str:
    """Say whether a figure is right."""
    return (
        "yes" if abs(found / expected - 1) <= tolerance else f"**{found:.6g}, not {expected:.6g}**"
    )


def by_transformers(folder: Path, name: str) -> PreTrainedModel:
    """Load a folder without this project."""
    wrapped = ARCHITECTURES[name].is_wrapper
    auto: Any = AutoModelForMultimodalLM if wrapped else AutoModelForCausalLM
    module: PreTrainedModel = auto.from_pretrained(folder, dtype=torch.float32)
    return module.eval().requires_grad_(False)


def attempt(loaded: LoadedModel, reasons: Reasons, what: Callable[[], str]) -> str:
    """Return what an attempt says, or the number of the reason why it is refused."""
    try:
        return what()
    except HarnessError as reason:
        return f"no ({reasons.number(str(reason))})"
    finally:
        loaded.restore()


def row(name: str, folder: Path, reasons: Reasons) -> str:
    """Return the line of one architecture."""
    save(name, folder / "float")
    path, without = folder / "float", UNCALLED.get(name, ())
    loaded = LocalModel(path=str(path), name=name, dtype="float32").load(torch.device("cpu"))
    kept: list[str] = []

    def int8() -> str:
        module = by_transformers(path, name)
        round_weights(module, name)
        report = quantize(loaded, INT8).report
        kept.extend(in_float(report))
        return f"{verdict(measured(loaded), plain(module), 1e-6)}, {report.coverage:.0%}"

    def real() -> str:
        module = by_transformers(path, name)
        round_weights(module, name, without)
        quantize(loaded, REAL)
        return verdict(measured(loaded), plain(module), 1e-5)

    def w8a8() -> str:
        module = by_transformers(path, name)
        names = round_weights(module, name, without)
        weights = [p for full, p in module.named_parameters() if full in names]
        with RoundedInputs(weights):
            expected = plain(module)
        quantize(loaded, W8A8)
        return verdict(measured(loaded), expected, 1e-4)

    def exported() -> str:
        out = folder / "out"
        export(loaded, INT8, CompressedTensors(), out, shard_bytes=2**30, facts=FACTS)
        quantize(loaded, INT8)
        expected = measured(loaded)
        again = LocalModel(path=str(out), dtype="float32").load(torch.device("cpu"))
        return verdict(measured(again), expected, 1e-5)

    cells = [
        f"`{name}`",
        type(loaded.module).__name__,
        loaded.attention,
        verdict(measured(loaded), plain(by_transformers(path, name)), 1e-6),
        *(attempt(loaded, reasons, what) for what in (int8, real, w8a8, exported)),
        ", ".join(f"`{each}`" for each in dict.fromkeys(kept)),
    ]
    return f"| {' | '.join(cells)} |"


def in_float(report: QuantReport) -> list[str]:
    """Return what stays in float and takes part in a text run: the last two words of the names."""
    words = []
    for skipped in report.skipped:
        if "not used by a text run" in skipped.reason or "quant.skip" in skipped.reason:
            continue
        parts = [part for part in skipped.name.split(".") if not part.isdigit()]
        words.append(
            ".".join(part for part in parts[-3:] if part != "weight").removeprefix("layers.")
        )
    return words


def main() -> None:
    """Measure, and write the page or print the lines."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="architectures; all if there are none")
    names = parser.parse_args().names
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    reasons, lines = Reasons(), []
    for name in names or ARCHITECTURES:
        with tempfile.TemporaryDirectory() as folder:
            lines.append(row(name, Path(folder), reasons))
        print(lines[-1], file=sys.stdout if names else sys.stderr, flush=True)
    notes = reasons.notes()
    if names:
        print("\n".join(notes))
        return
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    table = HEADER + "\n".join(lines) + "\n\n" + "\n".join(notes) + "\n"
    text = before + BEGIN + table + END + rest.partition(END)[2]
    write_atomic(PAGE, text.encode(), "PAGE", force=True)


if __name__ == "__main__":
    main()
