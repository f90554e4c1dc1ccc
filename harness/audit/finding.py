"""What a check found: a line of the file, the kind of fault, and the arithmetic."""

from enum import StrEnum
from typing import NamedTuple


class Fault(StrEnum):
    """The kinds of faults; `docs/audit.md` says what each means."""

    MEAN = "mean"
    DIFFERENCE = "difference"
    PERCENTAGE = "percentage"
    UNIT = "unit"
    ORDER = "order"
    BASELINE = "baseline"
    NO_BASELINE = "no baseline"
    BFLOAT16 = "bfloat16"
    GAP = "gap"
    NO_INTERVAL = "no interval"
    SPREAD = "spread"
    PAIRS = "pairs"
    GRANULARITY = "granularity"
    REPLICATION = "replication"
    SENTENCE = "sentence"


class Finding(NamedTuple):
    """One fault. Findings sort by line."""

    line: int
    """Line of the file, from 1 on."""
    fault: Fault
    text: str
    """What is wrong, with the numbers that show it."""
