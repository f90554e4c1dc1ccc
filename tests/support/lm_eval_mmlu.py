"""lm-eval's own MMLU tasks over questions in memory, and the samples that lm-eval makes of them."""

from collections.abc import Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager

from harness.data.source import Question

FOLDER = Path(find_spec("lm_eval").submodule_search_locations[0], "tasks/mmlu")


def definition(variant: str, subject: str) -> dict[str, Any]:
    """Return the definition of a subject, as the files of `default` or `continuation` have it."""
    own = yaml.safe_load((FOLDER / variant / f"mmlu_{subject}.yaml").read_text(encoding="utf-8"))
    shared = (FOLDER / variant / own["include"]).read_text(encoding="utf-8")
    return yaml.safe_load(shared) | own


def task_of(
    variant: str, asked: Sequence[Question], shown: Sequence[Question], shots: int
) -> dict[str, Any]:
    """Return lm-eval's task over questions of one subject, and solved examples."""
    task = definition(variant, asked[0].subject)
    for key in ("include", "tag", "task_alias", "dataset_name", "dataset_path"):
        task.pop(key, None)
    rows = {split: [*map(_row, listed)] for split, listed in (("test", asked), ("dev", shown))}

    def load(**_: Any) -> Any:
        from datasets import Dataset

        return {split: Dataset.from_list(listed) for split, listed in rows.items()}

    task |= {"custom_dataset": load, "num_fewshot": shots}
    return TaskManager(include_defaults=False).load([task])


def _row(question: Question) -> dict[str, Any]:
    return asdict(question) | {"choices": list(question.choices)}


def samples_of(
    model: Any,
    task: dict[str, Any],
    system: str | None = None,
    *,
    template: bool = False,
    turns: bool = False,
) -> list[dict[str, Any]]:
    """Return lm-eval's samples, one a question."""
    found = evaluate(
        model,
        task,
        bootstrap_iters=0,
        system_instruction=system,
        apply_chat_template=template,
        fewshot_as_multiturn=turns,
    )
    return next(iter(found["samples"].values()))
