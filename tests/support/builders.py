"""Objects that many test files need: texts, metrics, and whole records."""

import copy
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.data.embedded import EmbeddedData
from harness.data.source import QuestionSet, Text
from harness.results.record import Metric, RunRecord

RECORD: Mapping[str, Any] = {
    "run_id": "0123456789ab-20260102T030405000006",
    "config_hash": "0123456789ab" + "0" * 52,
    "status": "ok",
    "created": "2026-01-02T03:04:05.000006Z",
    "duration_s": 1.25,
    "command": "python -m harness task=perplexity",
    "config": {"task": {"window": 64, "limits": [1, None]}, "force": False},
    "model": {
        "name": "tiny",
        "dtype": "float32",
        "device": "cpu",
        "attention": "sdpa",
        "fingerprint": "f00d",
        "revision": None,
        "origin": "random weights",
        "num_parameters": 12,
        "float_bytes": 48,
    },
    "quant": {
        "name": "int8_row",
        "formats": {"linear": "int8_row"},
        "kind": "fake-quant",
        "num_quantized": 6,
        "coverage": 0.5,
        "bits_per_weight": 18.6,
        "model_bytes": 38,
        "skipped": [{"name": "lm_head", "shape": [2, 3], "reason": "quant.skip"}],
        "layers": [
            {
                "name": "q_proj",
                "rule": "linear",
                "format": "int8_row",
                "shape": [2, 3],
                "bits_per_weight": 18.6,
                "rel_error": 0.004,
                "short_tail": False,
            }
        ],
    },
    "task": {"name": "perplexity", "version": 1, "protocol": "L=64", "data": {"n": 3}},
    "provenance": {
        "git_commit": None,
        "git_dirty": None,
        "packages": {"torch": "2.13.0"},
        "python": "3.11.7",
        "os": "Linux",
        "cpu": "a processor",
        "cpu_flags": ["avx2"],
        "threads": 1,
        "gpu": None,
        "cuda": None,
        "torch_flags": {},
        "seeds": {"task.seed": 42},
    },
    "warnings": ["rows of 80 end with a short group — “ü”"],
}
PARTS = ("model", "quant", "task", "provenance")


def metric(name: str = "perplexity", value: float | None = 7.0625, **changes: Any) -> Metric:
    """A metric over 63 tokens; keywords replace fields."""
    fields = {"unit": "1", "n": 63, "n_of": "token", "higher_is_better": False}
    return Metric(name=name, value=value, **fields | changes)


def record(**changes: Any) -> RunRecord:
    """A whole record of a perplexity under int8_row, made without a model.

    Keywords replace fields. A mapping for `model`, `quant`, `task` or `provenance` replaces fields
    of that part: `record(model={"dtype": "bfloat16"})`.
    """
    fields = copy.deepcopy(dict(RECORD)) | {"metrics": (metric(ci95=(6.5, 7.75)),)}
    for name, change in changes.items():
        is_part = name in PARTS and isinstance(change, Mapping)
        fields[name] = fields[name] | change if is_part else change
    return RunRecord(**fields)


@dataclass(frozen=True, kw_only=True, slots=True)
class FixedText:
    """A data source of one text; see `fixed_text`."""

    content: str
    documents: tuple[str, ...] = ()

    def text(self) -> Text:
        """Return the text."""
        digest = hashlib.sha256(self.content.encode()).hexdigest()
        return Text(
            name="fixed",
            text=self.content,
            sha256=digest,
            num_rows=1,
            documents=self.documents,
        )

    def questions(self) -> QuestionSet:
        """Return nothing."""
        raise NotImplementedError


def fixed_text(content: str, *documents: str) -> FixedText:
    """A data source of one text, made of some documents."""
    return FixedText(content=content, documents=documents)


def prose(length: int) -> str:
    """Real text of so many bytes, in which the tiny model's tokenizer makes one token a byte."""
    ascii_only = EmbeddedData().text().text.encode("ascii", "ignore").decode()
    # Its tokens of two bytes are a space with one of these letters.
    return ascii_only.translate(dict.fromkeys(map(ord, "ABCD"), "x"))[:length]
