"""Give perplexities on file the interval by document that runs have now.

    python scripts/add_documents.py RESULTS

Records from before 2026-12 have an interval that takes windows for independent, and samples without
the documents of their tokens. The script

1. cuts the text of the record's configuration again, with its tokenizer;
2. checks the text against the hashes in the record;
3. adds the column `token_document` to the samples;
4. puts the intervals by document, and a warning that says so, into the record.

Nothing is measured and no value changes. A record whose samples have the column stays as it is.
Prints one line a record; exits with 1 if a record cannot be mended.

The new samples are written beside the old ones, then the record with their hash, then the new
samples replace the old ones. If the script is killed in between, the next call completes the work.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from harness.config import build
from harness.engines.local.engine import LocalEngine
from harness.engines.requests import Array
from harness.errors import HarnessError, ResultError
from harness.models.loaded import LoadedModel
from harness.output.atomic import write_atomic
from harness.results.names import PERPLEXITIES
from harness.results.record import Metric, RunRecord, Status
from harness.results.store import ResultStore, Stored, encoded, read_samples
from harness.tasks.perplexity.metrics import mean_over, text_figures
from harness.tasks.perplexity.perplexity import Perplexity
from harness.tasks.segments import Segments
from harness.tasks.windows import document_words, num_documents

COLUMN = "token_document"
NEW = ".new"
WARNING = (
    "the intervals of this record were computed anew by scripts/add_documents.py: by document, "
    "where they had taken windows for independent; the values are those that were measured"
)
Models = dict[str, LoadedModel]


def main() -> None:
    """Mend the records of the folder that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, help="folder with records")
    stored, problems = ResultStore(root=parser.parse_args().results).load()
    models: Models = {}
    for item in stored:
        if item.record.status is not Status.OK or item.record.task is None:
            continue
        if item.record.task.name not in PERPLEXITIES:
            continue
        try:
            found = mend(item, models)
        except HarnessError as reason:
            problems.append(f"{item.path}: {reason}")
        else:
            sys.stdout.write(f"{item.path}: {found}\n")
    for line in problems:
        sys.stderr.write(f"{line}\n")
    sys.exit(1 if problems else 0)


def mend(item: Stored, models: Models) -> str:
    """Add documents and intervals to one record; return what was done.

    Raises:
        HarnessError: The text or the tokenizer is not that of the record, or cannot be had.
    """
    complete(item)
    frame = read_samples(item)
    if COLUMN in frame:
        return "has documents"
    task = task_of(item.record)
    cut = cut_again(item.record, task, models)
    items = [np.asarray(nll, np.float64) for nll in frame["token_nll"]]
    if [len(nll) for nll in items] != [len(documents) for documents in cut.documents]:
        raise ResultError(
            "the samples must be those of the text cut again, got other numbers of tokens; repeat "
            "the run"
        )
    frame["cluster"] = [document_words(documents) for documents in cut.documents]
    frame[COLUMN] = [documents.astype(np.int32) for documents in cut.documents]
    record = renewed(item.record, task, items, cut)
    replace(item, record, frame)
    return f"{record.metrics[0].note}: {item.record.metrics[0].ci95} -> {record.metrics[0].ci95}"


def task_of(record: RunRecord) -> Perplexity:
    """Return the task of a record, built from its configuration.

    Raises:
        HarnessError: Its configuration cannot be built, or is another task's.
    """
    allowed = tuple(record.config.get("allow_targets", ()))
    task = build(record.config.get("task"), "task", allowed)
    if not isinstance(task, Perplexity):
        raise ResultError(
            f"config.task must be a perplexity, got {type(task).__name__}; repeat the run"
        )
    return task


def cut_again(record: RunRecord, task: Perplexity, models: Models) -> Segments:
    """Return the text of a record as its protocol cuts it.

    Raises:
        ResultError: Text or tokens have another hash than in the record.
    """
    text, limit = task.data.text(), task.limit_windows or task.limit_documents
    known = record.task.data if record.task else {}
    check("text_sha256", known, text.sha256)
    loaded = load(record.config["model"], models)
    cut = task.segmentation.cut(text, LocalEngine(loaded), task.window, limit, task.bos)
    check("token_ids_sha256", known, cut.facts["token_ids_sha256"])
    return cut


def check(name: str, known: Mapping[str, Any], found: str) -> None:
    """Refuse a text that is not that of the record."""
    if known.get(name) != found:
        raise ResultError(
            f"{name} must be {str(known.get(name))[:16]} as in the record, got {found[:16]}; "
            "repeat the run"
        )


def load(config: Mapping[str, Any], models: Models) -> LoadedModel:
    """Return the model of a configuration, loaded once; only its tokenizer is used."""
    key = repr(config)
    if key not in models:
        models[key] = build(config, "model").load(torch.device("cpu"))
    return models[key]


def renewed(record: RunRecord, task: Perplexity, items: list[Array], cut: Segments) -> RunRecord:
    """Return the record with intervals by document, every value as it is.

    Raises:
        ResultError: A value is not that of the samples.
    """
    figures = (
        *text_figures(mean_over(items, cut.documents), cut),
        *task.segmentation.further(items, cut.documents),
    )
    by_name = {metric.name: metric for metric in figures}
    metrics = tuple(with_interval(metric, by_name[metric.name]) for metric in record.metrics)
    update: dict[str, Any] = {"metrics": metrics, "warnings": (*record.warnings, WARNING)}
    if record.task is not None:
        data = {**record.task.data, "num_documents": num_documents(cut.documents)}
        update["task"] = record.task.model_copy(update={"data": data})
    return record.model_copy(update=update)


def with_interval(metric: Metric, found: Metric) -> Metric:
    """Return a metric with the interval and the note of the one that was computed anew."""
    same = metric.value == found.value or (
        metric.value is not None
        and found.value is not None
        and np.isclose(metric.value, found.value, rtol=1e-9, atol=0)
    )
    if not same:
        raise ResultError(
            f"{metric.name} must be that of the samples, {found.value}, got {metric.value}; repeat "
            "the run"
        )
    return metric.model_copy(update={"ci95": found.ci95, "note": found.note})


def replace(item: Stored, record: RunRecord, frame: pd.DataFrame) -> None:
    """Put new items and the record that has their hash in the place of the old ones."""
    content = encoded(frame)
    write_atomic(scratch(item), content, "RESULTS", "folder", force=True)
    digest = hashlib.sha256(content).hexdigest()
    whole = record.model_copy(update={"samples_sha256": digest})
    # Fields that records did not have then stay absent.
    fields = whole.model_dump(mode="json", exclude_unset=True)
    text = json.dumps(fields, indent=1, allow_nan=False)
    write_atomic(item.path, f"{text}\n".encode(), "RESULTS", "folder", force=True)
    scratch(item).replace(items_file(item))


def complete(item: Stored) -> None:
    """Finish a call that was cut off after it had written the record."""
    file = scratch(item)
    if (
        file.is_file()
        and hashlib.sha256(file.read_bytes()).hexdigest() == item.record.samples_sha256
    ):
        file.replace(items_file(item))


def items_file(item: Stored) -> Path:
    """Return the file of a record's items."""
    if item.record.samples_file is None:
        raise ResultError("the record must have a samples file, got one without; repeat the run")
    return item.path.with_name(item.record.samples_file)


def scratch(item: Stored) -> Path:
    """Return where new items lie until the record has their hash."""
    file = items_file(item)
    return file.with_name(file.name + NEW)


if __name__ == "__main__":
    main()
