"""Records on disk: one JSON file a run, and a parquet file of its items.

    <root>/<task>/<model>/<recipe>--<run_id>.json
                          <recipe>--<run_id>.samples.parquet

Every file is written to a temporary name in the same folder, synced, and moved into place: a reader sees the old file
or the new one, never half of one. There is no index to fall out of step. Two processes with the same configuration
take turns under a lock that the operating system frees when its holder dies.
"""

import hashlib
import io
import json
import logging
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout
from pydantic import ValidationError

from harness.errors import ResultError
from harness.results.record import RunRecord, SampleScore, Status

log = logging.getLogger(__name__)

SAMPLES_SUFFIX = ".samples.parquet"
NLL_GRID = 2.0**-26
"""Token NLLs are filed as the nearest multiples of this, within 7.5e-9 [nat]. The zero bits compress away: a token takes 4.1 bytes of
the file, where whole float64 numbers take 7.2 and the float32 numbers of older files 3.5."""
TOKEN_NLL_LEAF = "token_nll.list.element"  # noqa: S105 - a column, not a secret
TOKEN_DOCUMENT_LEAF = "token_document.list.element"  # noqa: S105


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """A record and the file it lies in."""

    path: Path
    record: RunRecord


@dataclass(frozen=True, kw_only=True, slots=True)
class ResultStore:
    """The records under one folder."""

    root: Path

    @contextmanager
    def claim(self, config_hash: str) -> Iterator[None]:
        """Hold the right to run a configuration; wait if another process has it.

        Raises:
            ResultError: The folder cannot be written.
        """
        folder = self.root / ".locks"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(folder / f"{config_hash[:16]}.lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                log.warning("another process runs this configuration; waiting for it")
                lock.acquire()
        except OSError as reason:
            raise ResultError(
                f"results_dir must be a folder that can be written, got {self.root}: {reason}; "
                "pass results_dir=FOLDER"
            ) from reason
        try:
            yield
        finally:
            lock.release()

    def path(self, record: RunRecord, *, task: str, model: str, recipe: str) -> Path:
        """Return where a record belongs, whatever its parts are called."""
        name = f"{safe_name(recipe)}--{record.run_id}.json"
        return self.root / safe_name(task) / safe_name(model) / name

    def write(self, path: Path, record: RunRecord) -> None:
        """Write a record, replacing what the path held."""
        text = json.dumps(record.model_dump(mode="json"), indent=1, allow_nan=False)
        write_atomic(path, f"{text}\n".encode())

    def write_samples(self, path: Path, samples: Sequence[SampleScore]) -> tuple[str, str]:
        """Write the items of the record at `path`; return file name and SHA-256."""
        content = encoded(samples_frame(samples))
        file = path.with_suffix(SAMPLES_SUFFIX)
        write_atomic(file, content)
        return file.name, hashlib.sha256(content).hexdigest()

    def load(self) -> tuple[list[Stored], list[str]]:
        """Return every whole record, oldest first, and a line for every file that is not one."""
        stored, problems = [], []
        for path in sorted(self.root.glob("*/*/*.json")):
            try:
                stored.append(Stored(path=path, record=read(path)))
            except ResultError as reason:
                problems.append(str(reason))
        stored.sort(key=lambda item: (item.record.created, item.record.run_id))
        return stored, problems

    def find(self, config_hash: str) -> list[Stored]:
        """Return the whole records of a configuration, oldest first."""
        paths = self.root.glob(f"*/*/*--{config_hash[:12]}-*.json")
        found = []
        for path in paths:
            try:
                record = read(path)
            except ResultError as reason:
                log.warning("%s", reason)
                continue
            if record.config_hash == config_hash:
                found.append(Stored(path=path, record=record))
        return sorted(found, key=lambda item: (item.record.created, item.record.run_id))

    def close_abandoned(self, stored: Iterable[Stored]) -> None:
        """Mark records that still say `running`: whoever holds the claim knows their process is gone."""
        for item in stored:
            if item.record.status is Status.RUNNING:
                update = {
                    "status": Status.ERROR,
                    "error": "the process ended without closing the record (killed, or out of memory)",
                }
                self.write(item.path, item.record.model_copy(update=update))


def read(path: Path) -> RunRecord:
    """Return the record in a file.

    Raises:
        ResultError: The file is not a whole record of this schema version.
    """
    try:
        return RunRecord.model_validate_json(path.read_bytes())
    except ValidationError as reason:
        first = reason.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ResultError(
            f"{path} must be a whole record, got: {place}: {first['msg']}; "
            "delete the file and repeat the run"
        ) from reason
    except OSError as reason:
        raise ResultError(f"{path} must be readable, got: {reason}") from reason


def read_samples(stored: Stored) -> pd.DataFrame:
    """Return the items of a record, one row each.

    Raises:
        ResultError: The file is missing, or not the one that the record was written with.
    """
    if stored.record.samples_file is None:
        raise ResultError(f"{stored.path} must have a samples file, got a record without one")
    file = stored.path.with_name(stored.record.samples_file)
    try:
        content = file.read_bytes()
    except OSError as reason:
        raise ResultError(f"{file} must be readable, got: {reason}; repeat the run") from reason
    if hashlib.sha256(content).hexdigest() != stored.record.samples_sha256:
        raise ResultError(
            f"{file} must have the SHA-256 in its record, got another; repeat the run"
        )
    return pd.read_parquet(io.BytesIO(content))


def samples_frame(samples: Sequence[SampleScore]) -> pd.DataFrame:
    """Return one row an item: id, cluster, answer, a column for each score, and the token lists."""
    rows = []
    for sample in samples:
        row: dict[str, object] = {"id": sample.id, "cluster": sample.cluster}
        if sample.answer is not None:
            row["answer"] = sample.answer
        row |= sample.scores
        if sample.token_nll is not None:
            row["token_nll"] = np.rint(np.asarray(sample.token_nll) / NLL_GRID) * NLL_GRID
        if sample.token_document is not None:
            row["token_document"] = np.asarray(sample.token_document, dtype=np.int32)
        rows.append(row)
    return pd.DataFrame(rows)


def encoded(frame: pd.DataFrame) -> bytes:
    """Return the parquet file of a table of items."""
    buffer = io.BytesIO()
    # Token NLLs are noise to a dictionary; split by byte, their exponents compress.
    frame.to_parquet(
        buffer,
        compression="zstd",
        index=False,
        use_dictionary=["cluster", TOKEN_DOCUMENT_LEAF],
        column_encoding={TOKEN_NLL_LEAF: "BYTE_STREAM_SPLIT"},
    )
    return buffer.getvalue()


def safe_name(name: str) -> str:
    """Return a name that is safe in a path: letters, digits, `.`, `_`, `-`; at most 80; no leading dot."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).lstrip(".")[:80] or "_"


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file so that a reader or a crash never sees half of it.

    Raises:
        ResultError: The disk is full, or the folder cannot be written; what was there before is untouched.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".writing-")
    except OSError as reason:
        raise _unwritable(path, reason) from reason
    scratch = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        scratch.chmod(0o644)  # mkstemp makes files that only their owner reads
        scratch.replace(path)
        _sync_folder(path.parent)
    except OSError as reason:
        raise _unwritable(path, reason) from reason
    finally:
        scratch.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make a rename outlast a power failure, not only a crash of the process."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unwritable(path: Path, reason: OSError) -> ResultError:
    return ResultError(
        f"results_dir must be a folder that can be written, got {path.parent}: {reason}; "
        "free some space or pass results_dir=FOLDER"
    )
