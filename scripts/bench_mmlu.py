"""Ask the same MMLU questions with quant-harness and with lm-eval, in one process, and compare answers and time.

    python scripts/bench_mmlu.py                         25 questions of each of four subjects, float32
    python scripts/bench_mmlu.py --subjects anatomy --limit 10 --dtype bfloat16

Both see the same loaded model. lm-eval runs its own task definition and its own sampler on its own copy of the rows.
"""

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import yaml

from harness.data.hub import HubData
from harness.data.source import CHOICES, Question
from harness.models.embedded import EmbeddedModel
from harness.models.source import LoadedModel
from harness.results.record import SampleScore
from harness.tasks.mmlu import MMLU
from harness.tasks.mmlu_direct import Direct

SUBJECTS = ("abstract_algebra", "anatomy", "high_school_geography", "philosophy")


def lm_eval_task(subject: str, questions: list[Question], folder: Path) -> dict[str, Any]:
    """Return lm-eval's own task of a subject, reading its rows from local files."""
    import lm_eval

    root = Path(lm_eval.__file__).parent / "tasks/mmlu/default"
    task: dict[str, Any] = {}
    for name in ("_default_template_yaml", f"mmlu_{subject}.yaml"):
        task |= yaml.safe_load((root / name).read_text(encoding="utf-8"))
    files = {}
    examples = HubData().questions().examples[subject]
    for split, rows in (("test", questions), ("dev", examples)):
        file = folder / f"{subject}.{split}.jsonl"
        lines = [json.dumps(asdict(row) | {"choices": list(row.choices)}) for row in rows]
        file.write_text("\n".join(lines), encoding="utf-8")
        files[split] = str(file)
    for key in ("include", "tag", "task_alias", "dataset_name"):
        task.pop(key, None)
    return task | {"dataset_path": "json", "dataset_kwargs": {"data_files": files}}


def run_lm_eval(
    loaded: LoadedModel, questions: list[Question], batch_size: int
) -> tuple[dict[str, list[float]], float]:
    """Return the log-probabilities of the four answers by question id, and the seconds lm-eval took."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    model = HFLM(
        pretrained=loaded.module,
        tokenizer=loaded.tokenizer,
        batch_size=batch_size,
        softmax_dtype="float32",
        max_length=loaded.max_length,
    )
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        by_subject = {
            subject: [q for q in questions if q.subject == subject]
            for subject in dict.fromkeys(q.subject for q in questions)
        }
        tasks = [lm_eval_task(name, rows, Path(folder)) for name, rows in by_subject.items()]
        started = time.perf_counter()
        results = lm_eval.simple_evaluate(
            model=model, tasks=tasks, num_fewshot=5, bootstrap_iters=0, log_samples=True
        )
        seconds = time.perf_counter() - started
        for samples in results["samples"].values():
            for sample in samples:
                found[sample["doc"]["id"]] = [float(r[0]) for r in sample["filtered_resps"]]
    return found, seconds


def compare(ours: tuple[SampleScore, ...], theirs: dict[str, list[float]]) -> tuple[int, float]:
    """Return the number of equal predictions and the largest difference of a log-probability."""
    same, largest = 0, 0.0
    for sample in ours:
        mine = [sample.scores[f"log_prob_{letter}"] for letter in CHOICES]
        other = theirs[sample.id]
        same += mine.index(max(mine)) == other.index(max(other))
        largest = max(largest, *(abs(a - b) for a, b in zip(mine, other, strict=True)))
    return same, largest


def main() -> None:
    """Run both and print a JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--subjects", nargs="+", default=list(SUBJECTS))
    parser.add_argument("--limit", type=int, default=25, help="questions of each subject")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--batch-size", type=int, default=4, help="of lm-eval")
    arguments = parser.parse_args()

    loaded = EmbeddedModel(dtype=arguments.dtype).load(torch.device("cpu"))
    questions = [
        question
        for subject in arguments.subjects
        for question in HubData().questions().questions
        if question.subject == subject and int(question.id.split("/")[-1]) < arguments.limit
    ]
    task = MMLU(data=FirstQuestions(questions), answer=Direct())
    started = time.perf_counter()
    ours = task.run(loaded).samples
    seconds = time.perf_counter() - started
    theirs, lm_eval_seconds = run_lm_eval(loaded, questions, arguments.batch_size)
    same, largest = compare(ours, theirs)
    summary = {
        "questions": len(questions),
        "dtype": arguments.dtype,
        "same_predictions": same,
        "largest_log_prob_difference": largest,
        "quant_harness_s": round(seconds, 2),
        "lm_eval_s": round(lm_eval_seconds, 2),
        "lm_eval_batch_size": arguments.batch_size,
        "speedup": round(lm_eval_seconds / seconds, 2),
    }
    sys.stdout.write(json.dumps(summary, indent=1) + "\n")


class FirstQuestions:
    """MMLU with only some of its questions."""

    def __init__(self, questions: list[Question]) -> None:
        self._questions = tuple(questions)

    def text(self) -> Any:
        """No text."""
        raise NotImplementedError

    def questions(self) -> Any:
        """Return the chosen questions, with MMLU's examples."""
        from dataclasses import replace

        return replace(HubData().questions(), questions=self._questions)


if __name__ == "__main__":
    main()
