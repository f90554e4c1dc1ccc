"""Records on disk: one JSON file a run, and a parquet file of its samples.

    <root>/<task>/<model>/<recipe>--<run_id>.json
                          <recipe>--<run_id>.samples.parquet

Every file is written by `harness.output`: a reader sees the old file or the new one, never a part.
There is no index that could differ from the files. Two processes with the same configuration take
turns under a lock; the operating system frees it when its holder dies.
"""

import hashlib
import io
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from pydantic import ValidationError

from harness.errors import ResultError
from harness.identity import config_hash
from harness.output import place
from harness.output.atomic import write_atomic
from harness.output.lock import locked
from harness.redaction import known_values, redacted_tree
from harness.results import damage, names
from harness.results.record import SCHEMA_VERSION, RunRecord, SampleScore, Status

OPTION = "results_dir"
"""The option for the folder; errors name it."""
ROOM = 2**20
"""Free space that a record and its samples need [byte]; the largest published ones take half."""
SAMPLES_SUFFIX = ".samples.parquet"
NLL_GRID = 2.0**-26
"""Token NLLs are rounded to multiples of this, which moves them by at most 7.5e-9 [nat]. The zero
bits compress away: a token takes 4.1 bytes of the file. Unrounded float64 takes 7.2, the float32 of
older files 3.5."""
TOKEN_NLL_LEAF = "token_nll.list.element"  # noqa: S105 - a column, not a secret
TOKEN_DOCUMENT_LEAF = "token_document.list.element"  # noqa: S105
WRITTEN_TEXTS = ("command", "config", "error", "warnings")
"""Fields with text that people or libraries wrote, which may hold a secret anywhere."""


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A record and the path of its file."""

    path: Path
    record: RunRecord
    part: str = ""
    """Beginning of the ids of its samples, for a part of a record; see `harness.results.parts`."""

    @cached_property
    def identity(self) -> str:
        """The identity of the run; see `identity_of`."""
        return identity_of(self.record)


@dataclass(frozen=True, kw_only=True, slots=True)
class ResultStore:
    """The records under one folder."""

    root: Path

    @contextmanager
    def hold(self, config_hash: str) -> Iterator[None]:
        """Context manager: hold the right to run a configuration; wait if another process has it.

        Raises:
            OutputError: The folder cannot be written.
        """
        place.folder_to_fill(self.root, OPTION)
        lock = self.root / ".locks" / f"{config_hash[:16]}.lock"
        busy = "another process runs this configuration; waiting for it"
        with locked(lock, OPTION, of=self.root, busy=busy):
            yield

    def path(self, record: RunRecord, *, task: str, model: str, recipe: str) -> Path:
        """Return the path of a record; characters that are not safe in a path are replaced."""
        name = f"{safe_name(recipe)}--{record.run_id}.json"
        return self.root / safe_name(task) / safe_name(model) / name

    def write(self, path: Path, record: RunRecord) -> None:
        """Write a record without secrets; an older file at the path is replaced.

        Raises:
            OutputError: The disk is full, or the folder cannot be written. An older file stays.
        """
        text = json.dumps(_without_secrets(record), indent=1, allow_nan=False)
        write_atomic(path, f"{text}\n".encode(), OPTION, "folder", force=True)

    def write_samples(self, path: Path, samples: Sequence[SampleScore]) -> tuple[str, str]:
        """Write the samples of the record at `path`; return file name and SHA-256."""
        content = encoded(samples_frame(samples))
        file = path.with_suffix(SAMPLES_SUFFIX)
        write_atomic(file, content, OPTION, "folder", force=True)
        return file.name, hashlib.sha256(content).hexdigest()

    def check_room(self) -> None:
        """Check that a record and its samples can be written, before anything is measured.

        Raises:
            OutputError: The folder cannot be written, or the disk is full.
        """
        place.check_room(self.root, OPTION, "folder", within=self.root, size=ROOM)

    def load(self) -> tuple[list[Stored], list[str]]:
        """Return all records, oldest first, and a line for every file that is not a whole record.

        Records are sorted by attempt, then by start.
        """
        return self._read_all("*/*/*")

    def beside(self, path: Path) -> list[Stored]:
        """Return what a record is read beside: records of its task and model, and noise floors.

        Oldest first, itself included. A checkpoint shares the noise floor of its baseline, which
        has another name. Files that are not whole records are left out: a report lists them.
        """
        own = f"{path.parent.relative_to(self.root)}/*"
        return self._read_all(own, f"{names.NOISE_FLOOR}/*/*")[0]

    def of_task(self, *, task: str, model: str) -> list[Stored]:
        """Return the records of a task and a model, oldest first; as `beside`."""
        return self._read_all(f"{safe_name(task)}/{safe_name(model)}/*")[0]

    def find(
        self, identity: str, *, task: str, model: str, recipe: str
    ) -> tuple[list[Stored], list[str]]:
        """Return the records of one configuration, and problems, as `load` does.

        Args:
            identity: Hash of the configuration; see `harness.identity`.
            task: Name of the task, as for `path`.
            model: Name of the model.
            recipe: Name of the recipe.

        Raises:
            OutputError: The results folder is not a folder.
        """
        place.folder_to_fill(self.root, OPTION)
        # The file names of records hold the beginning of their hash, wherever they lie. Old records
        # have another hash: they are looked for where such a run is filed.
        found, problems = self._read_all(
            f"*/*/*--{identity[:12]}-*",
            f"{safe_name(task)}/{safe_name(model)}/{safe_name(recipe)}--*",
        )
        # Compare both hashes. Old records have another `config_hash`. A secret that was masked by
        # its value is missing in `config`, so the hash computed from it differs.
        same = [i for i in found if identity in (i.record.config_hash, i.identity)]
        return same, problems

    def _read_all(self, *stems: str) -> tuple[list[Stored], list[str]]:
        stored, problems = [], []
        for path in sorted({path for stem in stems for path in self.root.glob(f"{stem}.json")}):
            try:
                stored.append(Stored(path=path, record=read(path)))
            except ResultError as reason:
                problems.append(str(reason))
        return sorted(stored, key=_filed), problems

    def close_abandoned(self, stored: Iterable[Stored]) -> None:
        """Mark records that still say `running` as failed.

        Call this under `hold`: then no process runs the configuration.
        """
        for item in stored:
            if item.record.status is Status.RUNNING:
                update = {
                    "status": Status.ERROR,
                    "error": "the process ended without closing the record (killed, out of memory, "
                    "or its disk was full)",
                }
                self.write(item.path, item.record.model_copy(update=update))


def identity_of(record: RunRecord) -> str:
    """Return the identity of a run, computed from the configuration in its record."""
    return config_hash(record.config, "cpu" if record.provenance.gpu is None else "cuda")


def next_attempt(known: Iterable[Stored]) -> int:
    """Return the `attempt` of the next run of these records' configuration.

    Call this under `hold`.
    """
    return 1 + max((item.record.attempt or 0 for item in known), default=0)


def _filed(item: Stored) -> tuple[int, datetime, str]:
    """Return the sort key of records. The attempt comes first: a clock may be set back."""
    return item.record.attempt or 0, item.record.created, item.record.run_id


def read(path: Path) -> RunRecord:
    """Return the record of a file.

    Raises:
        ResultError: The file is not a whole record of this schema version.
    """
    text = damage.content(path, damage.MOST_RECORD_BYTES)
    try:
        return RunRecord.model_validate_json(text)
    except ValidationError as reason:
        why = damage.explanation(reason, text, SCHEMA_VERSION)
        raise ResultError(f"{path} must be a whole record, got {why}") from reason


def read_samples(stored: Stored) -> pd.DataFrame:
    """Return the samples of a record: one row a sample.

    Raises:
        ResultError: The file is missing, or has another hash than the record says.
    """
    name = stored.record.samples_file
    if not name or name != Path(name).name:
        got = "a record without one" if name is None else f"the name {name}"
        raise ResultError(
            f"{stored.path} must have a samples file beside it, got {got}; repeat the run"
        )
    file = stored.path.parent / name
    content = damage.content(file, damage.MOST_SAMPLES_BYTES)
    if hashlib.sha256(content).hexdigest() != stored.record.samples_sha256:
        raise ResultError(
            f"{file} must have the SHA-256 in its record, got another; repeat the run"
        )
    try:
        # `pd.read_parquet` looks for a data set of many files, which takes four times as long.
        frame: pd.DataFrame = (
            pq.ParquetFile(io.BytesIO(content)).read(use_threads=False).to_pandas()
        )
    except (OSError, ValueError, LookupError, NotImplementedError) as reason:  # from pyarrow
        raise ResultError(
            f"{file} must be a parquet file, got: {reason}; repeat the run"
        ) from reason
    if not stored.part:
        return frame
    own = frame[frame["id"].str.startswith(stored.part)]
    return own.assign(id=own["id"].str.removeprefix(stored.part)).reset_index(drop=True)


def samples_frame(samples: Sequence[SampleScore]) -> pd.DataFrame:
    """Return one row a sample: id, cluster, answer, a column for each score, and token lists."""
    rows = []
    for sample in samples:
        row: dict[str, object] = {"id": sample.id, "cluster": sample.cluster}
        if sample.answer is not None:
            row["answer"] = sample.answer
        row |= sample.scores
        if sample.token_nll is not None:
            row["token_nll"] = np.rint(np.asarray(sample.token_nll) / NLL_GRID) * NLL_GRID
        if sample.token_kl is not None:
            # Most are far below 1: float32 keeps seven digits of each.
            row["token_kl"] = np.asarray(sample.token_kl, dtype=np.float32)
        if sample.token_document is not None:
            row["token_document"] = np.asarray(sample.token_document, dtype=np.int32)
        rows.append(row)
    return pd.DataFrame(rows)


def _without_secrets(record: RunRecord) -> dict[str, Any]:
    """Return the fields of a record with secrets masked; by value only in `WRITTEN_TEXTS`."""
    fields: dict[str, Any] = redacted_tree(record.model_dump(mode="json"))
    values = known_values()
    return fields | {key: redacted_tree(fields[key], values) for key in WRITTEN_TEXTS}


def encoded(frame: pd.DataFrame) -> bytes:
    """Return the bytes of the parquet file of a table of samples."""
    buffer = io.BytesIO()
    # A dictionary does not help with token NLLs. Split by byte, their exponents compress.
    frame.to_parquet(
        buffer,
        compression="zstd",
        index=False,
        use_dictionary=["cluster", TOKEN_DOCUMENT_LEAF],
        column_encoding={TOKEN_NLL_LEAF: "BYTE_STREAM_SPLIT"},
    )
    return buffer.getvalue()


def safe_name(name: str) -> str:
    """Return a name that is safe in a path: at most 80 letters, digits, `.`, `_`, `-`."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).lstrip(".")[:80] or "_"
