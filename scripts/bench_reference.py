"""What `bench_eval.py` compares with: lm-eval, a plain loop, and the arithmetic of a processor.

lm-eval runs its own MMLU definitions, YAML and all, on a model that is loaded already; the rows are
handed over in memory. Its time is the time of `lm_eval.evaluate`: building the prompts, tokenizing,
running the model, scoring. Task objects and `HFLM` are made before and timed separately.
Bootstraps, which would add seconds, are off.

lm-eval's `batch_size="auto"` does not help on a CPU: it begins with five passes of 64 rows of the
longest prompt, an hour on two cores, and asks what fits into memory instead of what is fast. So
`bench_eval.py` tries batch sizes.

    FLOP = 2 P t + 4 l h d c + 2 V H s

    P    weights of the body's linear layers       t    tokens that run
    l    layers                                    c    sum over these tokens of the positions that
    h    heads of size d                                each attends to, its own included
    V H  weights of the head                       s    scored positions
"""

import gc
import logging
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import yaml
from torch import nn
from torch.nn import functional as F

from harness.data.source import CHOICES, Question, QuestionSet
from harness.engines.requests import Generate
from harness.engines.tree import prefix_tree
from harness.models.loaded import LoadedModel
from harness.models.targets.targets import output_layer
from harness.results.record import SampleScore

Mode = Literal["direct", "generate"]
Json = dict[str, Any]

FOLDERS: dict[Mode, str] = {"direct": "default", "generate": "generative"}
"""Where lm-eval keeps the tasks `mmlu_*` and `mmlu_*_generative`."""
NEW_TOKENS = 5
"""Where `harness` ends a text; lm-eval ends it at 256 tokens, or a line break."""
FEWEST_TRIED = 8
"""Questions on which a small batch size is tried."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers:
    """What lm-eval found, by question id, and how long it took."""

    log_probs: dict[str, list[float]]
    """Of the four letters; direct mode."""
    texts: dict[str, str]
    """What was generated; generate mode."""
    correct: dict[str, bool]
    """By lm-eval's own metric."""
    seconds: float
    setup_seconds: float
    """Making the task objects and the `HFLM`; not part of `seconds`."""


def definition(mode: Mode, subject: str) -> Json:
    """Return lm-eval's definition of a subject, as its YAML has it."""
    import lm_eval

    folder = Path(lm_eval.__file__).parent / "tasks" / "mmlu" / FOLDERS[mode]
    found: Json = {}
    for name in ("_default_template_yaml", f"mmlu_{subject}.yaml"):
        found |= yaml.safe_load((folder / name).read_text(encoding="utf-8"))
    return found


def prompts(data: QuestionSet, questions: Sequence[Question], shots: int) -> list[str]:
    """Return the prompts of some questions, rendered from lm-eval's definitions."""
    from jinja2 import Template

    beginnings: dict[str, str] = {}
    templates: dict[str, Template] = {}
    for subject in {question.subject for question in questions}:
        task = definition("direct", subject)
        template = templates[subject] = Template(task["doc_to_text"])
        solved = [
            f"{template.render(**asdict(shot))} {CHOICES[shot.answer]}\n\n"
            for shot in data.examples[subject][:shots]
        ]
        beginnings[subject] = task["description"] + "".join(solved)
    return [beginnings[q.subject] + templates[q.subject].render(**asdict(q)) for q in questions]


def ask(
    loaded: LoadedModel,
    data: QuestionSet,
    questions: Sequence[Question],
    mode: Mode,
    *,
    batch_size: int,
    shots: int,
) -> Answers:
    """Let lm-eval answer, with its default settings but for the batch size."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    for name in ("lm_eval", "lm-eval"):  # it warns of what is meant here
        logging.getLogger(name).setLevel(logging.ERROR)
    gc.collect()
    started = time.perf_counter()
    model = HFLM(pretrained=loaded.module, tokenizer=loaded.tokenizer, batch_size=batch_size)
    tasks = mmlu_tasks(mode, data, questions, shots)
    ready = time.perf_counter()
    results = lm_eval.evaluate(model, tasks, bootstrap_iters=0, log_samples=True)
    ended = time.perf_counter()
    samples = {s["doc"]["id"]: s for listed in results["samples"].values() for s in listed}
    direct = mode == "direct"
    metric = "acc" if direct else "exact_match"
    return Answers(
        log_probs={i: [r[0] for r in s["filtered_resps"]] for i, s in samples.items() if direct},
        texts={i: s["resps"][0][0] for i, s in samples.items() if not direct},
        correct={i: bool(s[metric]) for i, s in samples.items()},
        seconds=ended - ready,
        setup_seconds=ready - started,
    )


def mmlu_tasks(
    mode: Mode, data: QuestionSet, questions: Sequence[Question], shots: int
) -> dict[str, Any]:
    """Return lm-eval's own MMLU tasks of the subjects of some questions."""
    from lm_eval.tasks import TaskManager

    subjects = dict.fromkeys(question.subject for question in questions)
    found: dict[str, Any] = TaskManager(include_defaults=False).load(
        [_task(mode, subject, data, questions, shots) for subject in subjects]
    )
    return found


def _task(
    mode: Mode, subject: str, data: QuestionSet, questions: Sequence[Question], shots: int
) -> Json:
    """Return a definition that reads its rows from memory."""
    from datasets import Dataset

    task = definition(mode, subject)
    for key in ("include", "tag", "task_alias", "dataset_name", "dataset_path"):
        task.pop(key, None)
    asked = [question for question in questions if question.subject == subject]
    splits = {"test": asked, "dev": data.examples[subject]}
    rows = {
        split: Dataset.from_list([asdict(q) | {"choices": list(q.choices)} for q in listed])
        for split, listed in splits.items()
    }
    return task | {"custom_dataset": lambda **_: rows, "num_fewshot": shots}


def tried_on(lengths: Sequence[int], size: int) -> list[int]:
    """Return the indices of the questions on which a batch size is tried: those of middle length.

    lm-eval sorts by length, so that the rows of a batch are about equally long. Among a few
    questions only those of neighbouring lengths are.
    """
    order = sorted(range(len(lengths)), key=lambda index: lengths[index])
    count = min(max(size, FEWEST_TRIED), len(order))
    start = (len(order) - count) // 2
    return order[start : start + count]


def bytes_of_row(loaded: LoadedModel, length: int) -> int:
    """Return the memory of a row of lm-eval in direct mode: logits before and after softmax."""
    return 2 * length * output_layer(loaded.module).weight.shape[0] * loaded.dtype.itemsize


def fastest(
    sizes: Sequence[int],
    lengths: Sequence[int],
    row: int,
    rate: Callable[[list[int], int], float],
) -> Json:
    """Return the batch size of the highest rate, and the rates of all that were tried.

    Sizes beyond the number of questions are left out, and those that memory has no room for.

    Args:
        sizes: Batch sizes to try.
        lengths: Tokens of each question.
        row: Memory of one row [byte].
        rate: Rate of some questions, by index, at a batch size [token/s].
    """
    useful = [size for size in sizes if size <= max(len(lengths), min(sizes))]
    tried = fitting(useful, row)
    rates = {size: rate(tried_on(lengths, size), size) for size in tried if len(tried) > 1}
    return {
        "fastest": max(rates, key=lambda size: rates[size]) if rates else tried[0],
        "tokens_per_s": rates,
        "too_large_for_memory": [size for size in useful if size not in tried],
    }


def fitting(sizes: Sequence[int], row: int) -> list[int]:
    """Return the batch sizes whose rows take at most half of the free memory.

    With larger ones lm-eval would be killed.

    Args:
        sizes: Batch sizes.
        row: Memory of one row [byte].

    Raises:
        SystemExit: None of them fits.
    """
    import psutil

    found = [size for size in sizes if size * row <= psutil.virtual_memory().available / 2]
    if not found:
        raise SystemExit(f"--batch-sizes must have one that fits into memory, got {[*sizes]}")
    return found


def top(values: Sequence[float]) -> list[int]:
    """Return the indices of the largest value; the first is the prediction."""
    return [index for index, value in enumerate(values) if value == max(values)]


def letters(sample: SampleScore) -> list[float]:
    """Return the log-probabilities of A to D."""
    return [sample.scores[f"log_prob_{letter}"] for letter in CHOICES]


def compare_direct(
    samples: Sequence[SampleScore], theirs: Mapping[str, list[float]], exact: Sequence[SampleScore]
) -> Json:
    """Compare predictions; `exact` are those of the float32 model, or none."""
    ours = {sample.id: letters(sample) for sample in samples}
    picks = {i: (top(ours[i])[0], top(theirs[i])[0]) for i in ours}
    right = {sample.id: top(letters(sample))[0] for sample in exact}
    gaps = [abs(a - b) for i in ours for a, b in zip(ours[i], theirs[i], strict=True)]
    differing = [
        {
            "id": i,
            "quant_harness": CHOICES[mine],
            "lm_eval": CHOICES[other],
            "float32": CHOICES[right[i]] if exact else None,
            "tied_in_lm_eval": len(top(theirs[i])) > 1,
            "gap_nat": ours[i][mine] - ours[i][other],
        }
        for i, (mine, other) in picks.items()
        if mine != other
    ]
    return {
        "same_predictions": len(picks) - len(differing),
        "different_predictions": len(differing),
        "different_and_tied_in_lm_eval": sum(row["tied_in_lm_eval"] for row in differing),
        "ties": {
            "quant_harness": sum(len(top(values)) > 1 for values in ours.values()),
            "lm_eval": sum(len(top(theirs[i])) > 1 for i in ours),
        },
        "predictions_of_the_float32_model": {
            "quant_harness": sum(picks[i][0] == right[i] for i in picks),
            "lm_eval": sum(picks[i][1] == right[i] for i in picks),
        }
        if exact
        else None,
        "log_prob_difference_nat": {"median": statistics.median(gaps), "largest": max(gaps)},
        "different": differing,
    }


def compare_generate(
    samples: Sequence[SampleScore], theirs: Answers, count: Callable[[str], int]
) -> Json:
    """Compare texts, and what each tool makes of them; `count` counts tokens."""
    different = [
        {"id": sample.id, "quant_harness": sample.answer, "lm_eval": theirs.texts[sample.id]}
        for sample in samples
        if not same_text(sample.answer or "", theirs.texts[sample.id], count)
    ]
    same = sum(bool(sample.scores["correct"]) == theirs.correct[sample.id] for sample in samples)
    return {
        "same_texts": len(samples) - len(different),
        "same_correctness": same,
        "different": different,
    }


def same_text(ours: str, theirs: str, count: Callable[[str], int]) -> bool:
    """Say whether two generated texts are equal, as far as ours goes; `count` counts tokens."""
    if count(ours) >= NEW_TOKENS:
        return theirs.strip().startswith(ours.strip())
    return ours.strip() == theirs.strip()


def plain_loop(model: Any, windows: torch.Tensor) -> list[float]:
    """Return the mean NLL of each window, as most evaluation code computes it [nat/token]."""
    losses = []
    with torch.no_grad():
        for ids in windows:
            logits = model(ids[None]).logits.float()
            losses.append(F.cross_entropy(logits[0, :-1], ids[1:]).item())
    return losses


def body_layers(module: Any) -> list[nn.Linear]:
    """Return the linear layers of a model but its head."""
    return [layer for layer in module.base_model.modules() if isinstance(layer, nn.Linear)]


def peak(module: Any, dtype: str, rows: int = 2048, repeats: int = 5) -> float:
    """Return the fastest matmul among the shapes of the model's body and a square one [FLOP/s]."""
    shapes = {tuple(layer.weight.shape) for layer in body_layers(module)} | {(rows, rows)}
    best = 0.0
    for outputs, inputs in shapes:
        x = torch.randn(rows, inputs).to(getattr(torch, dtype))
        weight = torch.randn(outputs, inputs).to(x.dtype)
        F.linear(x, weight)
        for _ in range(repeats):
            started = time.perf_counter()
            F.linear(x, weight)
            best = max(best, 2 * rows * inputs * outputs / (time.perf_counter() - started))
    return best


class Size(NamedTuple):
    """What the FLOP of a model depend on; see the module docstring."""

    linear: int
    """P."""
    head: int
    """V H."""
    attention: int
    """l h d."""

    @classmethod
    def of(cls, module: Any) -> "Size":
        """Return the sizes of a model whose layers are alike, without sliding windows."""
        config = module.config.get_text_config()
        heads = config.num_attention_heads
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
        return cls(
            linear=sum(layer.weight.numel() for layer in body_layers(module)),
            head=output_layer(module).weight.numel(),
            attention=config.num_hidden_layers * heads * head_dim,
        )


class Work(NamedTuple):
    """Tokens that are run, and what they cost."""

    tokens: int
    flop: int


def total(works: Sequence[Work]) -> Work:
    """Return all of them together."""
    return Work(sum(work.tokens for work in works), sum(work.flop for work in works))


def span(size: Size, start: int, stop: int, scored: int) -> Work:
    """Return the work of tokens `start` to `stop - 1` of a sequence, `scored` of them scored."""
    tokens = stop - start
    attended = (stop * (stop + 1) - start * (start + 1)) // 2
    flop = 2 * size.linear * tokens + 4 * size.attention * attended + 2 * size.head * scored
    return Work(tokens, flop)


def tree_work(size: Size, prompts: Sequence[Sequence[int]], new_tokens: Sequence[int]) -> Work:
    """Return the work of prompts whose shared tokens run once, and of their new tokens.

    The first new token is scored by the prompt's last position; each further one is run itself.
    """
    pairs = list(zip(prompts, new_tokens, strict=True))
    # A prompt that is to be continued stands in the tree even if it shares nothing: the nodes are
    # all that runs.
    tree = prefix_tree([Generate(tuple(ids), new) for ids, new in pairs])
    nodes = zip(tree.starts.tolist(), tree.ends.tolist(), strict=True)
    new = [span(size, len(ids), len(ids) + count - 1, scored=count) for ids, count in pairs]
    return total([*(span(size, start, end, scored=0) for start, end in nodes), *new])


def whole_work(
    size: Size, prompts: Sequence[Sequence[int]], new_tokens: Sequence[int], *, all_scored: bool
) -> Work:
    """Return the work of whole prompts; with `all_scored` the head runs over every position."""
    ends = [len(ids) + new - 1 for ids, new in zip(prompts, new_tokens, strict=True)]
    return total(
        [
            span(size, 0, end, scored=end if all_scored else new)
            for end, new in zip(ends, new_tokens, strict=True)
        ]
    )
