"""How fast evaluation is, beside lm-eval and a plain loop, in one process with one loaded model.

    python scripts/bench_eval.py                                  everything in bfloat16
    python scripts/bench_eval.py --dtype float32 --parts direct   predictions must equal lm-eval's
    python scripts/bench_eval.py --parts perplexity --out F.json  one part; F.json keeps its others
    python scripts/bench_eval.py --subjects virology --per-subject 2
    python scripts/bench_eval.py --parts direct --old v0.9        and beside an earlier commit
    python scripts/bench_eval.py --parts lm_eval                  `bench_lm_eval.py` says what

MMLU. Five examples, the first 25 questions of every fifth subject, direct and generate: `harness`
against lm-eval's `HFLM` at its fastest batch size. The time covers what a user waits for once the
model is loaded and the data read: prompts, tokenization, model, scores.

Perplexity. Windows of 2048: `harness` against the loop over `model(ids).logits.float()`. The time
leaves out tokenization on both sides, which over four windows would hide the rest.

`harness` runs before and after the other tool, and its time is the mean of both. On a CPU without
16-bit matrix instructions `harness` multiplies 16-bit matrices in float32, which lm-eval does not.
The rows `native` are `harness` without that: they separate the gain of the matmuls from the rest.

MFU is FLOP / (seconds x measured peak of a matmul). The peak is that of the model's dtype. Where
matmuls are float32 there is a second MFU against the float32 peak, and the first may exceed 1.
`bench_reference.py` defines FLOP. Tokens that run are, for `harness`, those of the prefix tree of
all prompts, which has shared tokens once; for lm-eval every whole prompt, all its positions scored
in direct mode. Padding does not count. A generated row counts the tokens of its text and the one
that ends it.
"""

import argparse
import gc
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeVar

import bench_lm_eval
import bench_reference as reference
import bench_versions
import torch
from bench_reference import Json, Mode, Work

from harness.data.hub import HubData
from harness.data.source import Question, QuestionSet
from harness.engines.local import cpu_matmul as products
from harness.engines.local.engine import LocalEngine
from harness.errors import HarnessError
from harness.machine import provenance
from harness.models.loaded import LoadedModel
from harness.models.sources.embedded import EmbeddedModel
from harness.output import place
from harness.output.atomic import write_atomic
from harness.results.record import SampleScore
from harness.tasks.base import Task
from harness.tasks.mmlu.direct import Direct
from harness.tasks.mmlu.generate import Generate
from harness.tasks.mmlu.mmlu import MMLU
from harness.tasks.perplexity.perplexity import Perplexity

SHOTS, WINDOW = 5, 2048
PARTS = ("direct", "generate", "perplexity", "lm_eval")
TARGETS = {"direct": 8.0, "generate": 8.0, "perplexity": 1.6}
"""Least ratio of the other tool's time to that of `harness`, in bfloat16."""
LEAST_MFU = 0.45
Found = TypeVar("Found")


@dataclass(frozen=True, kw_only=True)
class Chosen(HubData):
    """MMLU with only some of its questions."""

    asked: tuple[Question, ...]

    def questions(self) -> QuestionSet:
        """Return the chosen questions with MMLU's examples; files are read once for all choices."""
        return replace(HubData().questions(), questions=self.asked)


def choose(data: QuestionSet, subjects: Sequence[str], count: int) -> tuple[Question, ...]:
    """Return the first `count` questions of each subject."""
    if unknown := sorted(set(subjects) - set(data.subjects)):
        raise SystemExit(f"--subjects must be subjects of MMLU, got {', '.join(unknown)}")
    chosen: list[Question] = []
    for subject in subjects:
        chosen += islice((q for q in data.questions if q.subject == subject), count)
    return tuple(chosen)


class Timed(NamedTuple):
    """A task that has been run."""

    seconds: float
    samples: tuple[SampleScore, ...]


class Bench:
    """The model, the questions and the machine, for every part."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.started, self.arguments = time.perf_counter(), arguments
        self.data = HubData().questions()
        subjects = arguments.subjects or self.data.subjects[::5]
        self.questions = choose(self.data, subjects, arguments.per_subject)
        self.say(f"loading SmolLM2-135M in {arguments.dtype}")
        self.loaded = EmbeddedModel(dtype=arguments.dtype).load(torch.device("cpu"))
        self.how = products.choose_way(self.loaded, provenance.cpu_flags())
        self.size = reference.Size.of(self.loaded.module)
        self.ask_lm_eval = partial(reference.ask, self.loaded, self.data, shots=SHOTS)
        self.ids = self.tokenize(self.questions)
        self.peaks = {}
        for name in ("bfloat16", "float32"):
            self.peaks[name] = reference.peak(self.loaded.module, name)
            self.say(f"peak of a {name} matmul: {self.peaks[name] / 1e9:.0f} GFLOP/s")

    def say(self, line: str) -> None:
        """Print a line of progress."""
        sys.stderr.write(f"[{time.perf_counter() - self.started:7.1f} s] {line}\n")
        sys.stderr.flush()

    def tokenize(self, questions: Sequence[Question]) -> dict[str, list[int]]:
        """Return the prompts as tokens, by question id."""
        texts = reference.prompts(self.data, questions, SHOTS)
        ids = self.loaded.tokenizer(texts, verbose=False)["input_ids"]
        return dict(zip((question.id for question in questions), ids, strict=True))

    @cached_property
    def all_ids(self) -> dict[str, list[int]]:
        """The prompts of all of MMLU."""
        self.say(f"counting the tokens of all {len(self.data.questions)} questions")
        return self.tokenize(self.data.questions)

    def count(self, text: str) -> int:
        """Return the number of tokens of a text."""
        return len(self.loaded.tokenizer(text, verbose=False)["input_ids"])

    def batch_sizes(self, mode: Mode) -> Json:
        """Find lm-eval's fastest batch size, in prompt tokens a second."""

        def rate(indices: list[int], size: int) -> float:
            asked = [self.questions[index] for index in indices]
            taken = self.ask_lm_eval(asked, mode, batch_size=size).seconds
            found = sum(len(self.ids[question.id]) for question in asked) / taken
            self.say(f"{mode}: lm-eval at batch size {size}: {found:.0f} token/s")
            return found

        lengths = [len(self.ids[question.id]) for question in self.questions]
        row = reference.bytes_of_row(self.loaded, max(lengths)) if mode == "direct" else 0
        return reference.fastest(self.arguments.batch_sizes, lengths, row, rate)

    def row(self, seconds: Sequence[float], work: Work, how: products.MatmulWay) -> Json:
        """Return what the times of some work mean."""
        mean = statistics.mean(seconds)
        dtype: str = self.arguments.dtype
        peaks = dict.fromkeys((dtype, dtype if how == "native" else how))
        return {
            "seconds": list(seconds),
            "products": how,
            "tokens_run": work.tokens,
            "tokens_run_per_s": work.tokens / mean,
            "tflop": work.flop / 1e12,
            "mfu": {f"of_{name}_peak": work.flop / mean / self.peaks[name] for name in peaks},
        }

    def rows(self, runs: "Runs", work: Work, other: tuple[str, float, Work]) -> Json:
        """Return the other tool's time over that of `harness`, and the rows of both."""
        name, seconds, other_work = other
        native = runs.native and self.row([runs.native.seconds], work, "native")
        return {
            "speedup": seconds / runs.seconds,
            "speedup_native": runs.native and seconds / runs.native.seconds,
            "quant_harness": self.row([run.seconds for run in runs.usual], work, self.how),
            "quant_harness_native": native,
            name: self.row([seconds], other_work, "native"),
        }


class Runs(NamedTuple):
    """A task that has been run before and after another tool."""

    usual: tuple[Timed, Timed]
    native: Timed | None
    """With native matmuls, where these are not the usual ones."""

    @property
    def seconds(self) -> float:
        """Mean of the usual runs."""
        return statistics.mean(run.seconds for run in self.usual)


def run_task(task: Task, how: products.MatmulWay, loaded: LoadedModel) -> Timed:
    """Run a task as `harness.runner.run` does."""
    gc.collect()
    started = time.perf_counter()
    with products.multiplied(how):
        samples = task.run(LocalEngine(loaded)).samples
    return Timed(time.perf_counter() - started, samples)


def run_beside(
    bench: Bench, name: str, ours: Callable[[products.MatmulWay], Timed], other: Callable[[], Found]
) -> tuple[Runs, Found]:
    """Run `harness`, the other tool, and `harness` again, so that a drift favours neither."""

    def run(how: products.MatmulWay) -> Timed:
        bench.say(f"{name}: quant-harness, matmuls {how}")
        timed = ours(how)
        bench.say(f"{name}: {timed.seconds:.1f} s")
        return timed

    first = run(bench.how)
    native = None if bench.how == "native" else run("native")
    bench.say(f"{name}: the other tool")
    found = other()
    return Runs((first, run(bench.how)), native), found


def mmlu_part(bench: Bench, mode: Mode) -> Json:
    """Ask the questions with both tools."""
    bench.say(f"{mode}: {len(bench.questions)} questions, warming up")
    ask_harness(bench.loaded, mode, bench.how, bench.questions[:1])
    sizes = bench.batch_sizes(mode)
    runs, theirs = run_beside(
        bench,
        mode,
        lambda how: ask_harness(bench.loaded, mode, how, bench.questions),
        lambda: bench.ask_lm_eval(bench.questions, mode, batch_size=sizes["fastest"]),
    )
    ours = runs.usual[0].samples
    # A generated text has one more token than it shows: the one that ends it.
    direct = mode == "direct"
    new = new_theirs = [1] * len(ours)
    if not direct:
        new = [min(bench.count(s.answer or "") + 1, reference.NEW_TOKENS) for s in ours]
        new_theirs = [bench.count(theirs.texts[s.id]) + 1 for s in ours]
    prompts = list(bench.ids.values())
    work = reference.tree_work(bench.size, prompts, new)
    whole = reference.whole_work(bench.size, prompts, new_theirs, all_scored=direct)
    return {
        "questions": len(ours),
        "subjects": sorted({question.subject for question in bench.questions}),
        "prompt_tokens": sum(map(len, prompts)),
        "questions_per_s": {
            "quant_harness": len(ours) / runs.seconds,
            "lm_eval": len(ours) / theirs.seconds,
        },
        "accuracy": {
            "quant_harness": statistics.mean(sample.scores["correct"] for sample in ours),
            "lm_eval": statistics.mean(theirs.correct.values()),
        },
        **bench.rows(runs, work, ("lm_eval", theirs.seconds, whole)),
        "lm_eval_setup_s_not_counted": theirs.setup_seconds,
        "lm_eval_batch_size": sizes,
        "agreement": reference.compare_direct(ours, theirs.log_probs, exact_samples(bench))
        if direct
        else reference.compare_generate(ours, theirs, bench.count),
        "full_run": full_run(bench, mode, runs.seconds / work.flop, round(statistics.mean(new))),
    }


def ask_harness(
    loaded: LoadedModel, mode: Mode, how: products.MatmulWay, questions: tuple[Question, ...]
) -> Timed:
    """Ask `harness`, tokenization included: results kept by earlier runs are dropped."""
    loaded.kept.clear()
    answer = Direct() if mode == "direct" else Generate()
    return run_task(MMLU(data=Chosen(asked=questions), answer=answer), how, loaded)


def exact_samples(bench: Bench) -> tuple[SampleScore, ...]:
    """Return the float32 model's answers: they say who is right where tools differ in bfloat16."""
    if bench.arguments.dtype == "float32":
        return ()
    bench.say("direct: predictions of the float32 model")
    loaded = EmbeddedModel(dtype="float32").load(torch.device("cpu"))
    return ask_harness(loaded, "direct", "native", bench.questions).samples


def full_run(bench: Bench, mode: Mode, seconds_per_flop: float, new_tokens: int) -> Json:
    """Return what all of MMLU takes: an estimate from its FLOP, with `--full` the time too."""
    prompts = list(bench.all_ids.values())
    work = reference.tree_work(bench.size, prompts, [new_tokens] * len(prompts))
    estimate = work.flop * seconds_per_flop
    bench.say(f"{mode}: all of MMLU should take about {estimate:.0f} s")
    measured = None
    if bench.arguments.full:
        measured = ask_harness(bench.loaded, mode, bench.how, bench.data.questions).seconds
        bench.say(f"{mode}: all of MMLU took {measured:.0f} s")
    return {
        "questions": len(prompts),
        "prompt_tokens": sum(map(len, prompts)),
        "tokens_run": work.tokens,
        "estimated_s": estimate,
        "measured_s": measured,
    }


def perplexity_part(bench: Bench) -> Json:
    """Score windows with `harness` and with the loop that everyone writes."""
    count = bench.arguments.windows
    ids = bench.loaded.tokenizer(HubData().text().text, verbose=False)["input_ids"]
    windows = torch.tensor(ids[: count * WINDOW]).view(count, WINDOW)
    task = Perplexity(data=HubData(), window=WINDOW, limit_windows=count)
    bench.say(f"perplexity: {count} windows of {WINDOW}, warming up")
    run_task(replace(task, limit_windows=1), bench.how, bench.loaded)  # tokens are kept
    reference.plain_loop(bench.loaded.module, windows[:1])

    def plain() -> tuple[list[float], float]:
        started = time.perf_counter()
        return reference.plain_loop(bench.loaded.module, windows), time.perf_counter() - started

    runs, (losses, seconds) = run_beside(
        bench, "perplexity", lambda how: run_task(task, how, bench.loaded), plain
    )
    work = reference.whole_work(bench.size, windows.tolist(), [1] * count, all_scored=True)
    means = [s.scores["nll"] / s.scores["num_tokens"] for s in runs.usual[0].samples]
    gaps = [abs(a - b) for a, b in zip(means, losses, strict=True)]
    return {
        "windows": count,
        "perplexity": {
            "quant_harness": math.exp(statistics.mean(means)),
            "plain_loop": math.exp(statistics.mean(losses)),
        },
        "largest_difference_of_a_window_nat_per_token": max(gaps),
        **bench.rows(runs, work, ("plain_loop", seconds, work)),
    }


def targets(dtype: str, parts: Mapping[str, Json]) -> list[Json]:
    """Return each aim that a measured part has, and whether it is met."""
    aims: list[tuple[str, float, float]] = []
    if dtype == "float32" and (part := parts.get("direct")):
        same = part["agreement"]["same_predictions"]
        aims.append(("direct: predictions like lm-eval's", part["questions"], same))
    for name, part in parts.items() if dtype == "bfloat16" else ():
        if name not in TARGETS:
            continue
        aims.append((f"{name}: times as fast", TARGETS[name], part["speedup"]))
        for kind, value in part["quant_harness"]["mfu"].items():
            aims.append((f"{name}: MFU {kind.replace('_', ' ')}", LEAST_MFU, value))
    return [
        {"target": name, "at_least": least, "measured": value, "met": value >= least}
        for name, least, value in aims
    ]


def merged(file: Path | None, settings: Json, parts: dict[str, Json]) -> Json:
    """Return the result, with the parts that the file has already."""
    known: Json = {}
    if file is not None and file.is_file():
        stored = json.loads(file.read_text(encoding="utf-8"))
        if stored["settings"] != settings:
            raise SystemExit(
                f"--out must name a new file or one of the same settings, got {file} with "
                f"{stored['settings']} instead of {settings}"
            )
        known = stored["parts"]
    every = known | parts
    return {"settings": settings, "targets": targets(settings["dtype"], every), "parts": every}


def measured(bench: Bench, name: str) -> Json:
    """Return the figures of a part, with `--old` also those of an earlier commit."""
    given = bench.arguments
    if name == "lm_eval":
        bench.say("lm_eval: tasks of lm-eval on an engine and on HFLM")
        source = Chosen(asked=bench.questions)
        found = bench_lm_eval.part(
            bench.loaded,
            bench.data,
            source,
            given.documents,
            given.batch_sizes,
            bench.how,
            given.tasks,
        )
        for line in bench_lm_eval.lines(found):
            bench.say(line)
        return found
    found = perplexity_part(bench) if name == "perplexity" else mmlu_part(bench, name)
    if given.old is not None:
        bench.say(f"{name}: beside {given.old}")
        size = ["--per-subject", str(given.per_subject), "--windows", str(given.windows)]
        found["versions"] = bench_versions.beside(
            given.old, name, ["--dtype", given.dtype, *size], given.rounds
        )
    return found


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--subjects", nargs="+", help="default: every fifth")
    parser.add_argument("--per-subject", type=int, default=25, help="questions of each subject")
    parser.add_argument("--windows", type=int, default=4, help="of 2048 tokens, for perplexity")
    sizes = [1, 4, 8, 16, 32]
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=sizes, help="lm-eval's")
    parser.add_argument("--full", action="store_true", help="ask all 14,042 questions too")
    parser.add_argument("--documents", type=int, default=40, help="of each task of lm_eval")
    named = bench_lm_eval.TARGETS
    parser.add_argument("--tasks", nargs="+", choices=named, default=[*named], help="of lm_eval")
    parser.add_argument("--old", help="commit or folder to run the same parts with")
    parser.add_argument("--rounds", type=int, default=3, help="of today's and the earlier code")
    parser.add_argument("--out", type=Path, help="write to a file, which keeps its other parts")
    return parser.parse_args()


def main() -> None:
    """Run the parts and print a JSON object."""
    arguments = parse()
    settings = {
        "model": "smollm2_135m",
        "dtype": arguments.dtype,
        "subjects": arguments.subjects or "every fifth",
        "per_subject": arguments.per_subject,
        "windows": arguments.windows,
    }
    result = merged(arguments.out, settings, {})  # a wrong file ends this before the hour it takes
    if arguments.out:
        place.check_room(arguments.out, "--out", "file", within=arguments.out.parent)
    bench = Bench(arguments)
    machine = provenance.collect({}, torch.device("cpu")).model_dump(mode="json")
    facts = {"machine": machine, "matmul_peak_flop_per_s": bench.peaks}
    parts: dict[str, Json] = {}
    for name in arguments.parts:
        parts[name] = measured(bench, name) | facts
        result = merged(arguments.out, settings, parts)
        if arguments.out:
            text = json.dumps(result, indent=1) + "\n"
            write_atomic(arguments.out, text.encode(), "--out", force=True)
    for row in result["targets"]:
        met = "met" if row["met"] else "missed"
        bench.say(f"{row['target']}: {row['measured']:.4g} of {row['at_least']:g}, {met}")
    if not arguments.out:
        sys.stdout.write(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    try:
        main()
    except HarnessError as error:
        sys.exit(str(error))
