"""Records on disk: one JSON file a run, and a parquet file of its items.

    <root>/<task>/<model>/<recipe>--<run_id>.json
                          <recipe>--<run_id>.samples.parquet

Every file is written by `harness.output`: a reader sees the old file or the new one, never half of one. There is no index
to fall out of step. Two processes with the same configuration take turns under a lock that the operating system frees
when its holder dies.
"""

import hashlib
import io
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import ValidationError

from harness.errors import ResultError
from harness.identity import config_hash
from harness.output import place
from harness.output.atomic import write_atomic
from harness.output.lock import locked
from harness.redaction import known_values, redacted_tree
from harness.results import damage
from harness.results.record import SCHEMA_VERSION, RunRecord, SampleScore, Status

OPTION = "results_dir"
"""How a user names the folder; errors name it too."""
ROOM = 2**20
"""What a record and its samples need [byte]; the largest on file have half of it."""
SAMPLES_SUFFIX = ".samples.parquet"
NLL_GRID = 2.0**-26
"""Token NLLs are filed as the nearest multiples of this, within 7.5e-9 [nat]. The zero bits compress away: a token takes 4.1 bytes of
the file, where whole float64 numbers take 7.2 and the float32 numbers of older files 3.5."""
TOKEN_NLL_LEAF = "token_nll.list.element"  # noqa: S105 - a column, not a secret
TOKEN_DOCUMENT_LEAF = "token_document.list.element"  # noqa: S105


WRITTEN_TEXTS = ("command", "config", "error", "warnings")


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
            OutputError: The folder cannot be written.
        """
        place.folder_to_fill(self.root, OPTION)
        lock = self.root / ".locks" / f"{config_hash[:16]}.lock"
        busy = "another process runs this configuration; waiting for it"
        with locked(lock, OPTION, of=self.root, busy=busy):
            yield

    def path(self, record: RunRecord, *, task: str, model: str, recipe: str) -> Path:
        """Return where a record belongs, whatever its parts are called."""
        name = f"{safe_name(recipe)}--{record.run_id}.json"
        return self.root / safe_name(task) / safe_name(model) / name

    def write(self, path: Path, record: RunRecord) -> None:
        """Write a record without secrets, replacing what the path held.

        Raises:
            OutputError: The disk is full, or the folder cannot be written; what was there before is untouched.
        """
        text = json.dumps(_without_secrets(record), indent=1, allow_nan=False)
        write_atomic(path, f"{text}\n".encode(), OPTION, "folder", force=True)

    def write_samples(self, path: Path, samples: Sequence[SampleScore]) -> tuple[str, str]:
        """Write the items of the record at `path`; return file name and SHA-256."""
        content = encoded(samples_frame(samples))
        file = path.with_suffix(SAMPLES_SUFFIX)
        write_atomic(file, content, OPTION, "folder", force=True)
        return file.name, hashlib.sha256(content).hexdigest()

    def check_room(self) -> None:
        """Check that a record and its samples can be written, before they are measured.

        Raises:
            OutputError: They cannot.
        """
        place.check_room(self.root, OPTION, "folder", within=self.root, size=ROOM)

    def load(self) -> tuple[list[Stored], list[str]]:
        """Return every whole record, those of one configuration in the order of their filing, and a line for every file that is not one."""
        return self._read_all("*/*/*")

    def find(
        self, identity: str, *, task: str, model: str, recipe: str
    ) -> tuple[list[Stored], list[str]]:
        """Return the same of one configuration, whose records lie where `path` puts them.

        Raises:
            OutputError: Something else than a folder is there.
        """
        place.folder_to_fill(self.root, OPTION)
        found, problems = self._read_all(
            f"{safe_name(task)}/{safe_name(model)}/{safe_name(recipe)}--*"
        )
        # Either may differ: old records were filed with another hash, and a secret that was masked by its value is not in
        # the configuration on file.
        same = [i for i in found if identity in (i.record.config_hash, identity_of(i.record))]
        return same, problems

    def _read_all(self, stem: str) -> tuple[list[Stored], list[str]]:
        stored, problems = [], []
        for path in sorted(self.root.glob(f"{stem}.json")):
            try:
                stored.append(Stored(path=path, record=read(path)))
            except ResultError as reason:
                problems.append(str(reason))
        return sorted(stored, key=_filed), problems

    def close_abandoned(self, stored: Iterable[Stored]) -> None:
        """Mark records that still say `running`: whoever holds the claim knows their process is gone."""
        for item in stored:
            if item.record.status is Status.RUNNING:
                update = {
                    "status": Status.ERROR,
                    "error": "the process ended without closing the record (killed, out of memory, or its disk was full)",
                }
                self.write(item.path, item.record.model_copy(update=update))


def identity_of(record: RunRecord) -> str:
    """Return the identity of a record's run, computed from the configuration that it holds; see `harness.identity`."""
    return config_hash(record.config, "cpu" if record.provenance.gpu is None else "cuda")


def next_attempt(known: Iterable[Stored]) -> int:
    """Return the `attempt` of a run whose configuration has these records; whoever asks holds the claim."""
    return 1 + max((item.record.attempt or 0 for item in known), default=0)


def _filed(item: Stored) -> tuple[int, datetime, str]:
    """Return what sorts records: a count, since clocks are set back."""
    return item.record.attempt or 0, item.record.created, item.record.run_id


def read(path: Path) -> RunRecord:
    """Return the record in a file.

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
    """Return the items of a record, one row each.

    Raises:
        ResultError: The file is missing, or not the one that the record was written with.
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
        return pd.read_parquet(io.BytesIO(content))
    except (OSError, ValueError, LookupError, NotImplementedError) as reason:  # all of pyarrow's
        raise ResultError(
            f"{file} must be a parquet file, got: {reason}; repeat the run"
        ) from reason


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


def _without_secrets(record: RunRecord) -> dict[str, Any]:
    """Return the fields of a record with secrets masked; by value only where people or libraries wrote the text."""
    fields: dict[str, Any] = redacted_tree(record.model_dump(mode="json"))
    values = known_values()
    return fields | {key: redacted_tree(fields[key], values) for key in WRITTEN_TEXTS}


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
