"""Titles of tables: what a table is of, and how it differs from another of the same task."""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from harness.claims.grouping import Group, options
from harness.results.record import Provenance


def task_title(group: Group) -> str:
    """Return task, model and data of a group, and what tells it apart from other groups."""
    return f"{group.task.name} of {group.model.name} ({group.task.data['name']}){group.suffix}"


def told_apart(groups: Sequence[Group]) -> list[Group]:
    """Return the groups; `apart` is set where groups share task, model and data.

    Example:
        `questions=40-by-seed-42, shots=1` beside `questions=8-by-seed-42, shots=4`.
    """
    alike = defaultdict(list)
    for index, group in enumerate(groups):
        alike[group.task.name, group.model.name, group.task.data.get("name")].append(index)
    told = list(groups)
    for indices in alike.values():
        if len(indices) > 1:
            words = _differences([groups[index] for index in indices])
            for index, text in zip(indices, words, strict=True):
                told[index] = replace(groups[index], apart=text)
    return told


def _differences(groups: Sequence[Group]) -> list[str]:
    """Return words for each group: the facts that not all groups share.

    Kinds of facts are added one by one until the words of any two groups differ.
    """
    kinds = [_facts(group) for group in groups]
    words = [""] * len(groups)
    for depth in range(1, len(kinds[0]) + 1):
        facts = [[fact for kind in own[:depth] for fact in kind] for own in kinds]
        common = set(facts[0]).intersection(*facts)
        words = [", ".join(fact for fact in own if fact not in common) for own in facts]
        if len(set(words)) == len(words):
            break
    return words


def _facts(group: Group) -> list[list[str]]:
    """Return the facts that define a group, by kind. Readers know the first kinds best."""
    model, task = group.model, group.task
    record = group.rows[0].stored.record
    made = record.provenance
    return [
        task.protocol.split("|"),
        [f"{model.weights} weights", model.dtype, f"on {model.device}"],
        [f"{model.products} products", f"attention {model.attention}"],
        [f"version {task.version}", weights_words(model.fingerprint)],
        [made.gpu or made.cpu, f"{made.threads} threads"],
        [f"{key}={value}" for key, value in options(record).items()],
        [f"{key}={value}" for key, value in task.data.items()],
    ]


def weights_words(fingerprint: str) -> str:
    """Return words for a fingerprint: eight digits of a hash, or a name such as `tiny-v1-seed0`."""
    return f"weights {re.sub('[0-9a-f]{32,}', lambda found: found[0][:8], fingerprint)}"


def machine_words(made: Provenance) -> str:
    """Return the machine of a timed run, with the instructions that decide how fast matmuls are."""
    flags = ", ".join(made.cpu_flags) or "instructions not known"
    gpu = f"{made.gpu}; " if made.gpu else ""
    threads = "1 thread" if made.threads == 1 else f"{made.threads} threads"
    return f"Machine: {gpu}{made.cpu} ({flags}), {threads}"
