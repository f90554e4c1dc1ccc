"""A sink that fails loses no record, and a repeated command sends the record again."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pytest
from builders import record

from harness.errors import OutputError
from harness.results.store import Stored
from harness.sinks.deliver import Sinks
from harness.sinks.facts import Facts


@dataclass(frozen=True)
class Recording:
    """A tracker that keeps what it gets, or fails."""

    fails: bool = False
    got: list[Facts] = field(default_factory=list)
    label: ClassVar[str] = "recording"

    def check(self) -> None:
        pass

    def send(self, facts: Facts) -> None:
        if self.fails:
            raise RuntimeError("no\nnetwork")
        self.got.append(facts)


STORED = Stored(path=Path("results/one.json"), record=record())


def test_a_tracker_gets_the_record_and_its_verdict() -> None:
    tracker = Recording()
    Sinks(tracker=tracker).send(STORED, ["int8_row: worse"])
    assert [(facts.run_id, facts.verdict) for facts in tracker.got] == [
        (STORED.record.run_id, "int8_row: worse")
    ]


def test_a_failure_says_where_the_record_is_and_what_to_do() -> None:
    with pytest.raises(OutputError) as caught:
        Sinks(tracker=Recording(fails=True)).send(STORED, [])
    assert str(caught.value) == (
        "track=recording must get the record, got RuntimeError: no network; the record is on file "
        "(results/one.json): repeat the command to send it"
    )


def test_by_default_nothing_is_sent() -> None:
    Sinks().send(STORED, [])
