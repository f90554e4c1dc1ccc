"""Speed of prefill and decode in one process: transformers, `harness`, recipes, llama.cpp.

    python scripts/bench_throughput.py                           SmolLM2-135M in bfloat16
    python scripts/bench_throughput.py --recipes int8_row_real --rounds 3
    python scripts/bench_throughput.py --model qwen3_1_7b --weights random --prompt 2048 --eager
    python scripts/bench_throughput.py --breakdown               where the time of a token goes

The contenders of a table take turns in rounds (`harness.timing.rounds`). Times are medians. Ratios
are to `plain`, transformers' own `generate`, whose streamer gives the time of each token. `float32
products` is the unquantized model with float32 matmuls, as accuracy tasks run it on a CPU without
16-bit instructions. llama.cpp runs if `llama-cpp-python` is installed; it reads the GGUF file that
the other weights are dequantized from, so its weights are 4-bit. Compiled contenders pack float
weights a second time. The time of compiling is a column of its own.

prefill [prompt token/s] = prompt / time to the first token
decode [token/s]         = (new - 1) / time after the first token
GB/s                     = least bytes of a step (weights as stored, LM head, cache) * steps/s
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from hydra import compose, initialize_config_dir
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from transformers.generation.streamers import BaseStreamer

from harness import config
from harness.engines.local import cpu_matmul as products
from harness.engines.local.generation import Generation
from harness.machine import provenance
from harness.models.checkpoints.stored_bytes import stored_bytes
from harness.models.loaded import LoadedModel
from harness.models.sources.embedded import gguf_file
from harness.output.atomic import write_atomic
from harness.recipe import QuantRecipe, quantize
from harness.timing.rounds import interleaved
from harness.timing.warm_up import warm_up

Json = dict[str, Any]


class RequestTimes(NamedTuple):
    """The times of one request."""

    prefill_s: float
    decode_s: float
    """All tokens but the first."""

    @property
    def total_s(self) -> float:
        """Both."""
        return self.prefill_s + self.decode_s


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A way to run a model."""

    name: str
    ask: Callable[[], RequestTimes]
    read_bytes: int
    """Weights and cache that a step reads [byte]."""
    compile_s: Callable[[], float] = lambda: 0.0


class Stamps(BaseStreamer):
    """Records the time of each token from transformers; the first call is the prompt."""

    def __init__(self) -> None:
        self.at: list[float] = []

    def put(self, value: Tensor) -> None:  # noqa: ARG002
        """Record the time."""
        self.at.append(time.perf_counter())

    def end(self) -> None:
        """Do nothing."""


def plain(loaded: LoadedModel, prompts_BS: Tensor, new: int) -> Contender:
    """Return `generate` of transformers with its defaults."""
    mask = torch.ones_like(prompts_BS)

    def ask() -> RequestTimes:
        stamps, started = Stamps(), time.perf_counter()
        with torch.inference_mode():
            loaded.module.generate(
                prompts_BS, attention_mask=mask, max_new_tokens=new, min_new_tokens=new,
                do_sample=False, pad_token_id=0, streamer=stamps,
            )  # fmt: skip
        return RequestTimes(stamps.at[1] - started, stamps.at[-1] - stamps.at[1])

    return Contender(name="plain", ask=ask, read_bytes=stored_bytes(loaded.module))


def ours(
    name: str,
    loaded: LoadedModel,
    generation: Generation,
    new: int,
    *,
    is_float: bool,
    how: products.MatmulWay = "native",
) -> Contender:
    """Return a generation of the harness."""

    def request() -> RequestTimes:
        started = time.perf_counter()
        generation.prefill()
        first = time.perf_counter()
        for _ in range(new - 1):
            generation.step()
        return RequestTimes(first - started, time.perf_counter() - first)

    def ask() -> RequestTimes:
        with loaded.unquantized() if is_float else nullcontext(), products.multiplied(how):
            return request()

    request()  # makes the cache, and compiles
    read = stored_bytes(loaded.module) + generation.cache_bytes
    return Contender(name=name, ask=ask, read_bytes=read, compile_s=lambda: generation.compile_s)


def llama_cpp(prompt_S: Sequence[int], new: int, threads: int) -> Contender | None:
    """Return llama.cpp on the embedded GGUF file, or None where it is not installed."""
    try:
        from llama_cpp import Llama
    except ImportError:
        return None
    file = gguf_file()
    length = len(prompt_S) + new
    model = Llama(
        str(file), n_ctx=length, n_batch=length, n_threads=threads, n_threads_batch=threads,
        verbose=False,
    )  # fmt: skip

    def ask() -> RequestTimes:
        model.reset()
        started = time.perf_counter()
        model.eval(prompt_S)
        token = model.sample(temp=0.0)
        first = time.perf_counter()
        for _ in range(new - 1):
            model.eval([token])
            token = model.sample(temp=0.0)
        return RequestTimes(first - started, time.perf_counter() - first)

    return Contender(name="llama.cpp Q4_1", ask=ask, read_bytes=file.stat().st_size)


def measure(
    contenders: Sequence[Contender], rounds: int, prompt: int, new: int, batch: int
) -> list[Json]:
    """Return a row for each contender, with its raw times."""
    for contender in contenders:
        warm_up(lambda contender=contender: contender.ask().total_s)  # type: ignore[misc]
    found = interleaved({c.name: c.ask for c in contenders}, rounds, seed=42)
    rows = []
    for contender in contenders:
        times = found[contender.name]
        prefill, decode = (statistics.median(column) for column in zip(*times, strict=True))
        rate = (new - 1) / decode
        rows.append(
            {
                "name": contender.name,
                "prefill_tokens_per_s": batch * prompt / prefill,
                "decode_tokens_per_s": batch * rate,
                "gb_per_s": rate * contender.read_bytes / 1e9,
                "compile_s": contender.compile_s(),
                "prefill_s": [t.prefill_s for t in times],
                "decode_s": [t.decode_s for t in times],
            }
        )
    return rows


def show(title: str, rows: Sequence[Json]) -> None:
    """Print a table; ratios are to its first row."""
    print(f"\n{title}")
    columns = f"{'prefill':>10} {'ratio':>6} {'decode':>10} {'ratio':>6} {'GB/s':>6} {'compile':>8}"
    print(f"{'':28} {columns}")
    for row in rows:
        prefill, decode = row["prefill_tokens_per_s"], row["decode_tokens_per_s"]
        ratios = (
            prefill / rows[0]["prefill_tokens_per_s"],
            decode / rows[0]["decode_tokens_per_s"],
        )
        print(
            f"{row['name']:28} {prefill:8.1f}/s {ratios[0]:6.2f} {decode:8.1f}/s {ratios[1]:6.2f} "
            f"{row['gb_per_s']:6.1f} {row['compile_s']:6.0f} s"
        )


KINDS = {
    "products": ("aten::mm", "aten::_int_mm", "aten::addmm", "aten::bmm", "mkldnn", "linear"),
    "attention": ("attention",),
    "compiled graph, its attention and packed products included": ("CompiledFxGraph", "Compiled"),
}


def breakdown(generation: Generation, steps: int = 16) -> Json:
    """Return the time of a decode step by kind of operator [ms].

    The rest of the wall time is Python and dispatch.
    """
    generation.prefill()
    generation.step()  # compiles
    started = time.perf_counter()
    for _ in range(steps):
        generation.step()
    wall = (time.perf_counter() - started) / steps * 1e3
    generation.prefill()
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        for _ in range(steps):
            generation.step()
    shares: Json = {"step": wall, **dict.fromkeys(KINDS, 0.0), "other operators": 0.0}
    for event in recorded.key_averages():
        kind = next(
            (k for k, words in KINDS.items() if any(w in event.key for w in words)),
            "other operators",
        )
        shares[kind] += event.self_cpu_time_total / steps / 1e3
    return shares


def contenders_of(
    loaded: LoadedModel, chosen: argparse.Namespace
) -> Iterator[tuple[str, list[Contender]]]:
    """Yield the tables: the unquantized model in every way, then each recipe beside it."""
    generator = torch.Generator().manual_seed(42)
    vocabulary = loaded.vocab_size
    prompts_BS = torch.randint(0, vocabulary, (chosen.batch, chosen.prompt), generator=generator)
    new, compiled = chosen.new, not chosen.eager
    eager = ours("eager", loaded, Generation(loaded, prompts_BS, new), new, is_float=True)
    base = eager
    if compiled:
        base = ours(
            "compiled",
            loaded,
            Generation(loaded, prompts_BS, new, compiled=True),
            new,
            is_float=True,
        )
    if not chosen.recipes_only:
        own = [plain(loaded, prompts_BS, new), eager, *([base] if compiled else [])]
        if "float32" in products.ways(loaded):
            name, generation = "eager, float32 products", Generation(loaded, prompts_BS, new)
            own.append(ours(name, loaded, generation, new, is_float=True, how="float32"))
        if chosen.model == "smollm2_135m" and chosen.batch == 1:
            guest = llama_cpp(prompts_BS[0].tolist(), new, torch.get_num_threads())
            own += [guest] if guest else []
        yield "float", own
    for name in chosen.recipes:
        quantize(loaded, recipe_of(name))
        made = [
            base,
            ours(
                f"{name}, eager", loaded, Generation(loaded, prompts_BS, new), new, is_float=False
            ),
        ]
        if compiled:
            generation = Generation(loaded, prompts_BS, new, compiled=True)
            made.append(ours(f"{name}, compiled", loaded, generation, new, is_float=False))
        yield name, made
        loaded.restore()


def recipe_of(text: str) -> QuantRecipe:
    """Return the recipe of `name` or `name:override:override`."""
    name, *overrides = text.split(":")
    return config.check_component(
        config.build(composed(f"+quant={name}", *overrides)["quant"], "quant"), QuantRecipe, "quant"
    )


def composed(*overrides: str) -> Json:
    """Return the configuration of a command line."""
    config.register()
    with initialize_config_dir(str(config.CONF), version_base="1.3"):
        return dict(config.resolve(compose("config", list(overrides))))


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2_135m")
    parser.add_argument("--weights", default="pretrained", choices=["pretrained", "random"])
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--recipes", nargs="*", default=["int8_row_real", "w8a8_real"])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument(
        "--recipes-only", action="store_true", help="no table of the unquantized model"
    )
    parser.add_argument("--eager", action="store_true", help="compile nothing")
    parser.add_argument("--breakdown", action="store_true", help="profile decode steps instead")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def main() -> None:
    """Measure, print, write."""
    chosen = arguments()
    random = ["model.weights=random"] if chosen.weights == "random" else []
    settings = composed(f"model={chosen.model}", f"model.dtype={chosen.dtype}", *random)["model"]
    loaded = config.build(settings, "model").load(torch.device(chosen.device))
    made_with = provenance.collect({}, loaded.device).model_dump(mode="json")
    about = {"model": chosen.model, "weights": chosen.weights, "dtype": chosen.dtype,
             "batch": chosen.batch, "prompt": chosen.prompt, "new": chosen.new,
             "threads": torch.get_num_threads(),
             "provenance": made_with}  # fmt: skip
    out: Json = {"about": about, "tables": {}}
    if chosen.breakdown:
        vocabulary = loaded.vocab_size
        prompts_BS = torch.randint(0, vocabulary, (chosen.batch, chosen.prompt))
        for compiled in (False,) if chosen.eager else (False, True):
            name = "compiled" if compiled else "eager"
            out["tables"][name] = breakdown(Generation(loaded, prompts_BS, 64, compiled=compiled))
            print(
                f"\none token, {name} [ms]",
                *(f"  {v:8.2f}  {k}" for k, v in out["tables"][name].items()),
                sep="\n",
            )
    else:
        for title, contenders in contenders_of(loaded, chosen):
            rows = measure(contenders, chosen.rounds, chosen.prompt, chosen.new, chosen.batch)
            show(title, rows)
            out["tables"][title] = rows
    if chosen.out:
        write_atomic(chosen.out, f"{json.dumps(out, indent=1)}\n".encode(), "--out", force=True)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
